// A color scale for maps of surprise, for this page and for the one on which a model is played.

// Points from dark to bright; the scale is monotone in lightness.
const COLORS = [
  [8, 6, 40],
  [82, 18, 108],
  [165, 44, 96],
  [229, 92, 48],
  [251, 164, 24],
  [250, 250, 165],
];

/** The color `[red, green, blue]` at a share of the scale, from 0 to 1. */
export function colorOf(share) {
  const at = share * (COLORS.length - 1);
  const low = Math.min(Math.floor(at), COLORS.length - 2);
  return COLORS[low].map((value, channel) => Math.round(value + (at - low) * (COLORS[low + 1][channel] - value)));
}
