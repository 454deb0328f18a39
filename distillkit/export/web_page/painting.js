// A painting: how much a brush has covered each pixel, and with which tradeoff.
"use strict";

const MAX_UNDO = 10;
// The state of a pixel: how much it is covered, 0 ... 255, plus FAITHFUL if by the faithful brush.
const FAITHFUL = 256;
const STATES = 512;

class Painting {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.states = new Uint16Array(width * height);
    this.undoStack = [];
  }

  // The tradeoff of a pixel where the slider is at `base`.
  tradeoffOf(state, base) {
    const painted = state & FAITHFUL ? 1 : 0;
    return base + (state & 255) / 255 * (painted - base);
  }

  get isEmpty() {
    return !this.states.some((state) => state & 255);
  }

  // The tradeoff of each pixel.
  toMap(base) {
    return Float32Array.from(this.states, (state) => this.tradeoffOf(state, base));
  }

  remember() {
    this.undoStack = [...this.undoStack, this.states.slice()].slice(-MAX_UNDO);
  }

  undo() {
    if (this.undoStack.length) this.states = this.undoStack.pop();
  }

  clear() {
    this.remember();
    this.states.fill(0);
  }

  // Paints each pixel with a strength of its own, 0 ... 255.
  fill(tool, strengths) {
    strengths.forEach((strength, pixel) => {
      if (strength) this.paint(tool, pixel, strength);
    });
  }

  // Paints along a line, and returns the area that may have changed. Tools are faithful,
  // realistic and erase.
  stroke(tool, from, to, radius) {
    const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / (radius / 3)));
    for (let step = 1; step <= steps; step++) {
      const share = step / steps;
      this.dab(tool, from.x + share * (to.x - from.x), from.y + share * (to.y - from.y), radius);
    }
    const left = Math.min(from.x, to.x) - radius;
    const top = Math.min(from.y, to.y) - radius;
    const right = Math.max(from.x, to.x) + radius;
    const bottom = Math.max(from.y, to.y) + radius;
    return this.areaWithin(left, top, right, bottom);
  }

  areaWithin(left, top, right, bottom) {
    const area = { left: clamp(Math.floor(left), 0, this.width), top: clamp(Math.floor(top), 0, this.height) };
    area.width = clamp(Math.ceil(right), 0, this.width) - area.left;
    area.height = clamp(Math.ceil(bottom), 0, this.height) - area.top;
    return area;
  }

  dab(tool, x, y, radius) {
    const area = this.areaWithin(x - radius, y - radius, x + radius, y + radius);
    for (let row = area.top; row < area.top + area.height; row++) {
      for (let column = area.left; column < area.left + area.width; column++) {
        const distance = Math.hypot(column + 0.5 - x, row + 0.5 - y) / radius;
        // The inner half of a brush paints wholly; from there it fades.
        const strength = Math.round(255 * clamp(2 - 2 * distance, 0, 1));
        if (strength) this.paint(tool, row * this.width + column, strength);
      }
    }
  }

  paint(tool, pixel, strength) {
    const before = this.states[pixel] & 255;
    const brush = this.states[pixel] & FAITHFUL;
    const own = tool === "faithful" ? FAITHFUL : 0;
    if (tool === "erase") {
      this.states[pixel] = brush + Math.min(before, 255 - strength);
    } else if (brush === own || before === 0) {
      this.states[pixel] = own + Math.max(before, strength);
    } else if (strength >= 128) {
      this.states[pixel] = own + strength;
    } else {
      // The fading edge of a brush first takes away what another one painted.
      this.states[pixel] = brush + Math.min(before, 255 - strength);
    }
  }
}
