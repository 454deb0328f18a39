// Blends images that were restored at equally spaced tradeoffs to one for any tradeoff, pixel by
// pixel, so that slider and brush need no model.
"use strict";

// The tradeoffs that the page has images of.
const NODES = STUDENT.tradeoff === null ? [0, 0.5, 1] : [STUDENT.tradeoff];
const ONE = 65536;  // weights are integers, which are fast

// Calls `visit(pixel, i)` for each pixel of an area, or for one of each `step` x `step`; `i` counts
// them in fours, as RGBA does.
function eachPixel(width, area, step, visit) {
  let i = 0;
  for (let y = area.top; y < area.top + area.height; y += step) {
    const end = y * width + area.left + area.width;
    for (let pixel = y * width + area.left; pixel < end; pixel += step, i += 4) visit(pixel, i);
  }
}

// Lagrange's weights of 0, 1/2 and 1, for each state that a painted pixel can have.
function weighStates(painting, tradeoff) {
  const weights = [0, 1, 2].map(() => new Int32Array(STATES));
  for (let state = 0; state < STATES; state++) {
    const t = painting.tradeoffOf(state, tradeoff);
    const realistic = Math.round((1 - t) * (1 - 2 * t) * ONE);
    const faithful = Math.round(t * (2 * t - 1) * ONE);
    weights[0][state] = realistic;
    weights[1][state] = ONE - realistic - faithful;
    weights[2][state] = faithful;
  }
  return weights;
}

// Images are bytes, RGB; writes RGBA.
function blendInto(target, images, width, area, step, tradeoff, painting) {
  const [realistic, middle, faithful] = images;
  const [ofRealistic, ofMiddle, ofFaithful] = weighStates(painting, tradeoff);
  const { states } = painting;
  eachPixel(width, area, step, (pixel, i) => {
    const a = ofRealistic[states[pixel]];
    const b = ofMiddle[states[pixel]];
    const c = ofFaithful[states[pixel]];
    const k = 3 * pixel;
    target[i] = (a * realistic[k] + b * middle[k] + c * faithful[k] + ONE / 2) >> 16;
    target[i + 1] = (a * realistic[k + 1] + b * middle[k + 1] + c * faithful[k + 1] + ONE / 2) >> 16;
    target[i + 2] = (a * realistic[k + 2] + b * middle[k + 2] + c * faithful[k + 2] + ONE / 2) >> 16;
    target[i + 3] = 255;
  });
}

function copyInto(target, image, width, area, step) {
  eachPixel(width, area, step, (pixel, i) => {
    target[i] = image[3 * pixel];
    target[i + 1] = image[3 * pixel + 1];
    target[i + 2] = image[3 * pixel + 2];
    target[i + 3] = 255;
  });
}
