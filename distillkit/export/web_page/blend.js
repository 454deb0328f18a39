// Blends images that were restored at equally spaced tradeoffs to one for any tradeoff, pixel by
// pixel, so that slider and brush need no model.
"use strict";

const NODES = STUDENT.tradeoff === null ? [0, 0.5, 1] : [STUDENT.tradeoff];
const ONE = 65536;  // weights are integers, which are fast

// Images are bytes, RGB. Writes RGBA by Lagrange's interpolation between 0, 1/2 and 1.
function blendInto(target, images, width, area, tradeoff, painting) {
  const [realistic, middle, faithful] = images;
  let i = 0;
  for (let y = area.top; y < area.top + area.height; y++) {
    let pixel = y * width + area.left;
    for (const end = pixel + area.width; pixel < end; pixel++, i += 4) {
      const t = painting.weight[pixel] ? painting.tradeoffAt(pixel, tradeoff) : tradeoff;
      const a = Math.round((1 - t) * (1 - 2 * t) * ONE);
      const c = Math.round(t * (2 * t - 1) * ONE);
      const b = ONE - a - c;
      const k = 3 * pixel;
      target[i] = (a * realistic[k] + b * middle[k] + c * faithful[k] + ONE / 2) >> 16;
      target[i + 1] = (a * realistic[k + 1] + b * middle[k + 1] + c * faithful[k + 1] + ONE / 2) >> 16;
      target[i + 2] = (a * realistic[k + 2] + b * middle[k + 2] + c * faithful[k + 2] + ONE / 2) >> 16;
      target[i + 3] = 255;
    }
  }
}

function copyInto(target, image, width, area) {
  let i = 0;
  for (let y = area.top; y < area.top + area.height; y++) {
    let k = 3 * (y * width + area.left);
    for (const end = k + 3 * area.width; k < end; k += 3, i += 4) {
      target[i] = image[k];
      target[i + 1] = image[k + 1];
      target[i + 2] = image[k + 2];
      target[i + 3] = 255;
    }
  }
}
