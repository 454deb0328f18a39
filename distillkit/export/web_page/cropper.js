// Chooses what is restored of a large photo: a crop at full detail, or all of it, shrunk.
"use strict";

class Cropper {
  constructor() {
    this.photo = null;
    this.center = { x: 0.5, y: 0.5 };  // as shares of the photo
    $("share").addEventListener("input", () => this.draw());
    $("cropBox").addEventListener("keydown", (event) => this.moveByKey(event));
    $("cropBox").addEventListener("pointerdown", (event) => this.grab(event));
    $("cropBox").addEventListener("pointermove", (event) => this.drag(event));
    $("useCrop").addEventListener("click", () => this.resolve(this.crop()));
    $("shrink").addEventListener("click", () => this.resolve(shrunk(this.photo)));
  }

  // Shows the photo; resolves to the crop that is chosen.
  open(photo) {
    this.photo = photo;
    this.center = { x: 0.5, y: 0.5 };
    fit($("cropper"), photo.width, photo.height);
    const canvas = $("overview");
    const shown = sizeShown(photo.overview.width, photo.overview.height);
    Object.assign(canvas, shown);
    canvas.getContext("2d").drawImage(photo.overview, 0, 0, shown.width, shown.height);
    const whole = shrunk(photo);
    $("shrink").textContent = `Shrink the full photo to ${whole.toWidth} x ${whole.toHeight}`;
    this.draw();
    return new Promise((resolve) => { this.resolve = resolve; });
  }

  // As large as can be restored, or a share of that, with the photo's proportions.
  crop() {
    const { width, height } = this.photo;
    const share = largestShare(this.photo) * Number($("share").value) / 100;
    const crop = { width: Math.max(1, Math.floor(share * width)), height: Math.max(1, Math.floor(share * height)) };
    crop.left = Math.round(clamp(this.center.x * width - crop.width / 2, 0, width - crop.width));
    crop.top = Math.round(clamp(this.center.y * height - crop.height / 2, 0, height - crop.height));
    return { ...crop, toWidth: crop.width, toHeight: crop.height };
  }

  draw() {
    const { width, height } = this.photo;
    const crop = this.crop();
    const frame = $("cropBox").style;
    frame.left = `${100 * crop.left / width}%`;
    frame.top = `${100 * crop.top / height}%`;
    frame.width = `${100 * crop.width / width}%`;
    frame.height = `${100 * crop.height / height}%`;
    const millions = (width * height / 1e6).toFixed(1);
    $("cropSize").textContent = `The crop is ${crop.width} x ${crop.height} of ${width} x ${height} `
      + `pixels (${millions} million).`;
  }

  moveTo(x, y) {
    const { width, height } = this.photo;
    const crop = this.crop();
    this.center.x = clamp(x, crop.width / 2 / width, 1 - crop.width / 2 / width);
    this.center.y = clamp(y, crop.height / 2 / height, 1 - crop.height / 2 / height);
    this.draw();
  }

  moveByKey(event) {
    const step = event.shiftKey ? 0.1 : 0.02;
    const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (!move) return;
    event.preventDefault();
    this.moveTo(this.center.x + move[0], this.center.y + move[1]);
  }

  grab(event) {
    $("cropBox").setPointerCapture(event.pointerId);
    const point = pointOn($("overview"), event);
    this.grabbed = { x: this.center.x - point.x, y: this.center.y - point.y };
  }

  drag(event) {
    if (!$("cropBox").hasPointerCapture(event.pointerId)) return;
    const point = pointOn($("overview"), event);
    this.moveTo(point.x + this.grabbed.x, point.y + this.grabbed.y);
  }
}

// How much of a photo's sides can be restored at once.
function largestShare({ width, height }) {
  const bySide = STUDENT.max_input_side / Math.max(width, height);
  return Math.min(1, bySide, Math.sqrt(STUDENT.max_input_pixels / (width * height)));
}

// The full photo, shrunk to what can be restored.
function shrunk({ width, height }) {
  const factor = largestShare({ width, height });
  const toWidth = Math.max(1, Math.floor(factor * width));
  const toHeight = Math.max(1, Math.floor(factor * height));
  return { left: 0, top: 0, width, height, toWidth, toHeight };
}
