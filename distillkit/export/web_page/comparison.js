// Shows before and after in one picture with a divider, and paints on the latter.
"use strict";

class Comparison {
  constructor() {
    this.before = $("before").getContext("2d");
    this.after = $("after").getContext("2d");
    this.cover = $("cover").getContext("2d");
    this.map = $("map").getContext("2d");
    this.cursor = { x: 0, y: 0 };
    // To change some pixels of a large canvas takes as long as to change all. So above this many
    // pixels, changes are drawn coarsely on a small canvas over it, the cover, and on the canvas
    // itself when nothing changes any more.
    this.maxPixelsPerFrame = 400_000;
    this.dirty = null;  // the area to draw in the next frame
    this.covered = null;  // the area that is drawn on the cover
    this.blended = null;  // rows of it that are blended for the picture
    this.frame = null;
    $("unscaled").addEventListener("change", () => this.scale());
    for (const id of ["tradeoff", "showMap"]) $(id).addEventListener("input", () => this.drawSoon());
    $("divider").addEventListener("input", () => this.split());
    $("compared").addEventListener("change", () => this.drawBefore());
    $("size").addEventListener("input", () => this.placeCursor());
    $("undo").addEventListener("click", () => this.change(() => this.painting.undo()));
    $("clear").addEventListener("click", () => this.change(() => this.painting.clear()));
    for (const radio of document.getElementsByName("tool")) radio.addEventListener("change", () => this.pickTool());
    $("comparison").addEventListener("pointerdown", (event) => this.press(event));
    $("comparison").addEventListener("pointermove", (event) => this.move(event));
    $("cursor").addEventListener("keydown", (event) => this.paintByKey(event));
  }

  // Shows the pixels of a photo, enlarged; what is restored of them comes by `add`.
  open(pixels, width, height) {
    this.width = width;
    this.height = height;
    this.nodes = new Map();
    this.dirty = null;
    this.uncover();
    this.painting = new Painting(width, height);
    this.cursor = { x: width / 2, y: height / 2 };
    fit($("comparison"), width, height);
    for (const { canvas } of [this.before, this.after, this.map]) {
      canvas.width = width;
      canvas.height = height;
    }
    this.photo = new OffscreenCanvas(width, height);
    const context = this.photo.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.drawImage(pixels, 0, 0, width, height);
    this.opacity = opacityOf(context);
    this.after.drawImage(this.photo, 0, 0);
    $("compared").value = "photo";
    $("afterTag").textContent = "photo";
    document.querySelector("[name=tool][value=compare]").checked = true;
    this.pickTool();
    this.drawBefore();
    this.split();
    this.scale();
    this.showUndo();
  }

  // An image, RGB, restored at one of the nodes.
  add(node, colors) {
    this.nodes.set(node, colors);
    $("afterTag").textContent = "restored";
    this.drawSoon();
  }

  get tradeoff() {
    return STUDENT.tradeoff ?? Number($("tradeoff").value);
  }

  get isComplete() {
    return this.nodes.size === NODES.length;
  }

  get tool() {
    return document.querySelector("[name=tool]:checked").value;
  }

  // ---- Drawing ----

  drawSoon(area = this.fullArea()) {
    this.dirty = union(this.dirty, area);
    this.frame ??= requestAnimationFrame(() => this.drawFrame());
  }

  drawFrame() {
    this.frame = null;
    if (this.dirty) {
      this.draw(this.dirty);
      this.dirty = null;
    } else if (this.covered) {
      this.refine();
    }
    if (this.covered) this.frame = requestAnimationFrame(() => this.drawFrame());
  }

  draw(changed) {
    if (!this.nodes.size || changed.width <= 0 || changed.height <= 0) return;
    const area = union(this.covered, changed);
    const step = Math.ceil(Math.sqrt(area.width * area.height / this.maxPixelsPerFrame));
    if (this.width * this.height > this.maxPixelsPerFrame) this.drawCover(area, step);
    else putPixels(this.after, area, 1, (target) => this.blend(target, area));
    this.drawMap(area, step);
    $("value").value = this.tradeoff.toFixed(2);
  }

  // Draws one of each `step` x `step` pixels.
  drawCover(area, step) {
    const { canvas } = this.cover;
    canvas.width = Math.ceil(area.width / step);
    canvas.height = Math.ceil(area.height / step);
    const image = new ImageData(canvas.width, canvas.height);
    this.blend(image.data, area, step);
    this.cover.putImageData(image, 0, 0);
    canvas.style.left = `${100 * area.left / this.width}%`;
    canvas.style.top = `${100 * area.top / this.height}%`;
    canvas.style.width = `${100 * step * canvas.width / this.width}%`;
    canvas.style.height = `${100 * step * canvas.height / this.height}%`;
    canvas.hidden = false;
    this.covered = area;
    this.blended = null;
  }

  // Blends more rows of the covered area at full resolution; after the last, removes the cover.
  refine() {
    const { left, top, width, height } = this.covered;
    this.blended ??= { image: new ImageData(width, height), rows: 0 };
    const { image, rows } = this.blended;
    const more = Math.min(height - rows, Math.ceil(this.maxPixelsPerFrame / width));
    const part = { left, top: top + rows, width, height: more };
    this.blend(image.data.subarray(4 * width * rows, 4 * width * (rows + more)), part);
    this.drawMap(part, 1);
    this.blended.rows += more;
    if (this.blended.rows < height) return;
    this.after.putImageData(image, left, top);
    this.uncover();
  }

  uncover() {
    $("cover").hidden = true;
    this.covered = null;
    this.blended = null;
  }

  drawMap(area, step) {
    $("map").hidden = !$("showMap").checked;
    if ($("showMap").checked) putPixels(this.map, area, step, (target) => this.mapInto(target, area, step));
  }

  // The restored image in an area, RGBA.
  blend(target, area, step = 1) {
    if (NODES.length > 1 && this.isComplete) {
      const images = NODES.map((node) => this.nodes.get(node));
      blendInto(target, images, this.width, area, step, this.tradeoff, this.painting);
    } else {
      const [image] = this.nodes.values();
      copyInto(target, image, this.width, area, step);
    }
    if (this.opacity) this.applyOpacity(target, area, step);
  }

  applyOpacity(target, area, step) {
    eachPixel(this.width, area, step, (pixel, i) => { target[i + 3] = this.opacity[pixel]; });
  }

  mapInto(target, area, step) {
    const { painting, tradeoff } = this;
    eachPixel(this.width, area, step, (pixel, i) => {
      const level = 255 * painting.tradeoffOf(painting.states[pixel], tradeoff);
      target.fill(level, i, i + 3);
      target[i + 3] = 255;
    });
  }

  drawBefore() {
    const compared = $("compared").selectedOptions[0];
    $("beforeTag").textContent = compared.text.replace("the ", "");
    $("before").setAttribute("aria-label", `Before: ${compared.text}`);
    const node = { realistic: 0, faithful: 1 }[compared.value];
    this.before.clearRect(0, 0, this.width, this.height);
    if (node === undefined) {
      this.before.drawImage(this.photo, 0, 0);
      return;
    }
    const image = new ImageData(this.width, this.height);
    copyInto(image.data, this.nodes.get(node), this.width, this.fullArea(), 1);
    if (this.opacity) this.applyOpacity(image.data, this.fullArea(), 1);
    this.before.putImageData(image, 0, 0);
  }

  split() {
    const share = Number($("divider").value);
    $("comparison").style.setProperty("--split", share);
    $("divider").setAttribute("aria-valuetext", `${Math.round(share)} % before, ${Math.round(100 - share)} % after`);
  }

  // Shows the picture at 1:1 with its divider in the middle, or as a whole.
  scale() {
    const stage = $("stage");
    stage.style.setProperty("--density", devicePixelRatio);
    stage.classList.toggle("unscaled", $("unscaled").checked);
    stage.tabIndex = $("unscaled").checked ? 0 : -1;  // so that the arrow keys scroll it
    const { offsetWidth, offsetHeight } = $("comparison");
    const share = Number($("divider").value) / 100;
    stage.scrollTo(share * offsetWidth - stage.clientWidth / 2, (offsetHeight - stage.clientHeight) / 2);
  }

  fullArea() {
    return { left: 0, top: 0, width: this.width, height: this.height };
  }

  // ---- The brush ----

  pickTool() {
    const paints = this.tool !== "compare";
    $("comparison").classList.toggle("painting", paints);
    $("cursor").hidden = !paints;
    $("brush").hidden = !paints;
    $("comparing").hidden = paints;
    if (!paints) $("showMap").checked = false;
    this.placeCursor();
    this.drawSoon();
  }

  get radius() {
    return Number($("size").value) / 200 * Math.max(this.width, this.height);
  }

  placeCursor() {
    const { style } = $("cursor");
    style.left = `${100 * this.cursor.x / this.width}%`;
    style.top = `${100 * this.cursor.y / this.height}%`;
    style.width = `${200 * this.radius / this.width}%`;
    style.height = `${200 * this.radius / this.height}%`;
  }

  press(event) {
    if (this.tool === "compare" || !this.isComplete || event.button || !event.isPrimary) return;
    $("comparison").setPointerCapture(event.pointerId);
    this.cursor = this.pixelAt(event);
    this.beginStroke();
  }

  move(event) {
    if (this.tool === "compare" || !event.isPrimary) return;  // a second finger paints nothing
    if ($("comparison").hasPointerCapture(event.pointerId)) this.strokeTo(this.pixelAt(event));
    this.cursor = this.pixelAt(event);
    this.placeCursor();
  }

  beginStroke() {
    this.painting.remember();
    this.strokeTo(this.cursor);
    this.showUndo();
  }

  strokeTo(point) {
    this.drawSoon(this.painting.stroke(this.tool, this.cursor, point, this.radius));
  }

  paintByKey(event) {
    const step = this.radius / 2;
    const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (move) {
      this.cursor = {
        x: clamp(this.cursor.x + move[0], 0, this.width),
        y: clamp(this.cursor.y + move[1], 0, this.height),
      };
      this.placeCursor();
      $("cursor").scrollIntoView({ block: "nearest", inline: "nearest" });
    } else if (event.key === " " && this.isComplete) {
      this.beginStroke();
    } else {
      return;
    }
    event.preventDefault();
  }

  // Paints what was found in the photo faithful, and shows the brush that changes it.
  paintFound(strengths) {
    document.querySelector("[name=tool][value=faithful]").checked = true;
    this.pickTool();
    this.change(() => {
      this.painting.remember();
      this.painting.fill("faithful", strengths);
    });
  }

  change(action) {
    action();
    this.showUndo();
    this.drawSoon();
  }

  showUndo() {
    $("undo").disabled = !this.painting.undoStack.length;
    $("clear").disabled = this.painting.isEmpty;
  }

  pixelAt(event) {
    const { x, y } = pointOn($("after"), event);
    return { x: x * this.width, y: y * this.height };
  }
}

// The opacity of each pixel; null where all are opaque.
function opacityOf(context) {
  const { width, height } = context.canvas;
  const { data } = context.getImageData(0, 0, width, height);
  const opacity = Uint8Array.from({ length: width * height }, (_, pixel) => data[4 * pixel + 3]);
  return opacity.every((value) => value === 255) ? null : opacity;
}

// Puts pixels on a canvas that `fill` writes, RGBA: one of each `step` x `step`, enlarged.
function putPixels(context, { left, top, width, height }, step, fill) {
  const image = new ImageData(Math.ceil(width / step), Math.ceil(height / step));
  fill(image.data);
  if (step === 1) {
    context.putImageData(image, left, top);
    return;
  }
  const small = new OffscreenCanvas(image.width, image.height);
  small.getContext("2d").putImageData(image, 0, 0);
  context.clearRect(left, top, width, height);
  context.drawImage(small, 0, 0, width / step, height / step, left, top, width, height);
}

function union(one, other) {
  if (!one) return other;
  const left = Math.min(one.left, other.left);
  const top = Math.min(one.top, other.top);
  const right = Math.max(one.left + one.width, other.left + other.width);
  const bottom = Math.max(one.top + one.height, other.top + other.height);
  return { left, top, width: right - left, height: bottom - top };
}
