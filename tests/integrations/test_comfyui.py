"""The nodes for ComfyUI, by the contract of its loader, and on its own page."""

import json
from types import ModuleType

import pytest
import torch

from comfyui_page import FOLDER, load_nodes, workflow_page
from starflow.pipeline.pipeline import StarFlowPipeline
from tiny_pipeline import tiny_pipeline

PROMPT = "a red circle moves right"
SOCKETS = ("IMAGE", "STARFLOW_MODEL")  # inputs of these types are never widgets


@pytest.fixture(scope="module")
def nodes() -> ModuleType:
    return load_nodes()


def test_each_node_keeps_the_contract(nodes: ModuleType):
    assert nodes.NODE_CLASS_MAPPINGS.keys() == nodes.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in nodes.NODE_CLASS_MAPPINGS.values():
        assert callable(getattr(node, node.FUNCTION))
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
        inputs = node.INPUT_TYPES()
        assert inputs.keys() <= {"required", "optional"}
        for declared in (*inputs["required"].values(), *inputs.get("optional", {}).values()):
            assert isinstance(declared[0], str | list)


def run_node(nodes: ModuleType, name: str, **values: object) -> tuple:
    """Run a node as ComfyUI does: a new instance, and its inputs as keywords."""
    node = nodes.NODE_CLASS_MAPPINGS[name]
    inputs = node.INPUT_TYPES()
    known = inputs["required"].keys() | inputs.get("optional", {}).keys()
    assert inputs["required"].keys() <= values.keys() <= known
    return getattr(node(), node.FUNCTION)(**values)


@pytest.fixture(scope="module")
def model(nodes: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> StarFlowPipeline:
    folder = tmp_path_factory.mktemp("models")
    tiny_pipeline().save_pretrained(folder)
    (model,) = run_node(nodes, "StarFlowLoadModel", model=str(folder), device="cpu", dtype="float32")
    return model


def make(nodes: ModuleType, model: StarFlowPipeline, **values: object) -> torch.Tensor:
    given = {"seed": 1, "num_frames": 0, "width": 0, "height": 0, "guidance_scale": 0.0} | values
    frames, fps = run_node(nodes, "StarFlowMakeVideo", model=model, prompt=PROMPT, **given)
    assert fps == 8
    assert frames.dtype == torch.float32
    assert 0 <= frames.min() <= frames.max() <= 1
    return frames


def test_the_node_makes_the_video_of_the_pipeline(nodes: ModuleType, model: StarFlowPipeline):
    expected = model(PROMPT, generator=torch.Generator().manual_seed(1), output_type="np").frames[0]
    torch.testing.assert_close(make(nodes, model), torch.from_numpy(expected).float())
    assert make(nodes, model, num_frames=5, width=64, height=32).shape == (5, 32, 64, 3)


@pytest.mark.parametrize(
    ("name", "num_given", "num_made"), [("image", 1, 9), ("last_image", 1, 9), ("video", 9, 9), ("extend", 5, 13)]
)
def test_the_node_does_every_task(nodes: ModuleType, model: StarFlowPipeline, name: str, num_given: int, num_made: int):
    given = torch.rand(num_given, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    frames = make(nodes, model, num_frames=num_made, **{name: given})
    assert frames.shape == (num_made, 32, 32, 3)
    assert not torch.equal(frames, make(nodes, model, num_frames=num_made))


def test_the_node_measures_the_surprise(nodes: ModuleType, model: StarFlowPipeline):
    clip = torch.rand(9, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    bits, pictures = run_node(nodes, "StarFlowMeasureSurprise", model=model, clip=clip, prompt=PROMPT, seed=0)
    assert bits > 0
    assert pictures.shape == (3, 32, 32, 3)  # one for each latent frame
    assert (pictures.min(), pictures.max()) == (0, 1)


def test_the_workflow_fits_the_nodes(nodes: ModuleType):
    workflow = json.loads((FOLDER / "workflow.json").read_text())
    by_id = {node["id"]: node for node in workflow["nodes"]}
    ours = [node for node in workflow["nodes"] if node["type"] in nodes.NODE_CLASS_MAPPINGS]
    assert len(ours) == 2
    for source, output, target, slot, kind in (link[1:] for link in workflow["links"]):
        assert by_id[source]["outputs"][output]["type"] == by_id[target]["inputs"][slot]["type"] == kind
    for node in ours:
        declared = nodes.NODE_CLASS_MAPPINGS[node["type"]]
        inputs = declared.INPUT_TYPES()
        inputs = inputs["required"] | inputs.get("optional", {})
        sockets = [name for name, (kind, *_) in inputs.items() if kind in SOCKETS]
        assert [each["name"] for each in node["inputs"]] == sockets
        assert [each["type"] for each in node["outputs"]] == list(declared.RETURN_TYPES)
        widgets = [name for name in inputs if name not in sockets]
        seeds = widgets.count("seed")  # ComfyUI puts what becomes of a seed after it
        assert len(node["widgets_values"]) == len(widgets) + seeds


@pytest.mark.service
def test_the_page_of_comfyui_reads_the_workflow_as_it_is_meant(nodes: ModuleType):
    pytest.importorskip("comfyui_frontend_package", reason="comfyui-frontend-package is not installed")
    with workflow_page(nodes) as page:
        made = page.evaluate("async () => (await app.graphToPrompt()).output")  # what the page sends to be run
    load, make, create, save = (made[number] for number in "1234")
    assert load["inputs"] == {"model": "toyworld", "device": "cpu", "dtype": "float32"}
    (model,) = run_node(nodes, load["class_type"], **load["inputs"])
    assert make["inputs"].pop("model") == ["1", 0]
    assert make["inputs"]["prompt"] == PROMPT
    frames, fps = run_node(nodes, make["class_type"], model=model, **make["inputs"])
    assert (frames.shape, fps) == ((17, 64, 64, 3), 8)
    assert create["inputs"] == {"images": ["2", 0], "fps": ["2", 1]}
    assert save["inputs"]["video"] == ["3", 0]
