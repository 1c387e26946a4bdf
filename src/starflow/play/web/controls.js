// Keyboard, buttons on the page and gamepad: which controls are pressed, and which action that is.

const KEY_NAMES = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };
const STICK = 0.4; // how far a stick is moved before it counts

export class Controls {
  #neutral;
  #controls;
  #buttons;
  #onAction;
  #held = []; // indices of pressed controls: the last pressed one decides, if two are of the same component
  #sentBy = new Map(); // the action's id with which each held control was first sent
  #shown = 0; // the newest action's id that a frame has followed
  #released = new Set(); // held until a frame has shown them, so that no short press is lost
  #id = 0;

  /** `onAction(action, id, time)` is called whenever the action changes; `time` is when something was pressed. */
  constructor({ neutral, controls }, place, onAction) {
    [this.#neutral, this.#controls, this.#onAction] = [neutral, controls, onAction];
    this.#buttons = controls.map((control, index) => this.#button(control, index));
    place.replaceChildren(...this.#buttons);
    for (const kind of ["keydown", "keyup"]) window.addEventListener(kind, (event) => this.#key(event));
    window.addEventListener("blur", () => this.releaseAll());
  }

  /** A frame has followed the action with this id, and all before. */
  shown(id) {
    this.#shown = Math.max(this.#shown, id);
    for (const index of [...this.#released]) this.#release(index, performance.now());
  }

  releaseAll() {
    for (const index of [...this.#held]) this.#release(index, performance.now());
  }

  /** Read the first gamepad that is connected; call it for each picture of the screen. */
  readGamepad(time) {
    const pad = navigator.getGamepads?.().find((each) => each !== null);
    if (!pad) return;
    this.#controls.forEach(({ axis, direction, button }, index) => {
      const isPressed = (axis !== null && direction * (pad.axes[axis] ?? 0) > STICK) || pad.buttons[button]?.pressed;
      const was = this.#buttons[index].dataset.gamepad === "true";
      if (Boolean(isPressed) === was) return;
      this.#buttons[index].dataset.gamepad = String(!was);
      if (was) this.#release(index, time);
      else this.#press(index, time);
    });
  }

  #button({ name, key }, index) {
    const button = document.createElement("button");
    button.type = "button";
    button.tabIndex = -1; // the keys do the same
    [button.ariaLabel, button.dataset.key] = [name, key];
    button.append(name);
    if (key) {
      const cap = document.createElement("kbd");
      cap.textContent = KEY_NAMES[key] ?? key.replace(/^(Key|Digit)/, "");
      button.append(cap);
    }
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      button.setPointerCapture(event.pointerId);
      this.#press(index, event.timeStamp);
    });
    for (const kind of ["pointerup", "pointercancel", "lostpointercapture"])
      button.addEventListener(kind, (event) => this.#release(index, event.timeStamp));
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    return button;
  }

  #key(event) {
    const index = this.#controls.findIndex(({ key }) => key === event.code);
    if (index < 0 || event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
    event.preventDefault(); // no scrolling
    if (event.repeat) return;
    if (event.type === "keydown") this.#press(index, event.timeStamp);
    else this.#release(index, event.timeStamp);
  }

  #press(index, time) {
    this.#released.delete(index);
    if (this.#held.includes(index)) return;
    this.#held.push(index);
    this.#sentBy.set(index, this.#id + 1);
    this.#change(index, time);
  }

  #release(index, time) {
    if (!this.#held.includes(index)) return;
    if (this.#sentBy.get(index) > this.#shown) {
      this.#released.add(index);
      return;
    }
    this.#released.delete(index);
    this.#held = this.#held.filter((each) => each !== index);
    this.#change(index, time);
  }

  #change(index, time) {
    this.#buttons[index].setAttribute("aria-pressed", String(this.#held.includes(index)));
    const action = [...this.#neutral];
    for (const each of this.#held) action[this.#controls[each].component] = this.#controls[each].value;
    this.#id += 1;
    this.#onAction(action, this.#id, time);
  }
}

/** Whether a key is meant for a field or a button of the page. */
export function isTyping(event) {
  const isButtons = event.target.closest("button, a") && ["Space", "Enter"].includes(event.code);
  return Boolean(isButtons || event.target.closest("input, textarea, select"));
}
