// The page: a photo is opened, restored at a few tradeoffs, looked at and downloaded.
//
// `student.js` comes before this script and defines `STUDENT`, the settings of the page:
//   title, promise, about             texts of the page
//   accept                            types of files to choose from, as <input accept> takes them
//   scale                             output size divided by input size
//   tradeoff                          the tradeoff of a student that has only one, else null
//   max_input_pixels, max_input_side  limits of a crop that is restored at once
//   max_shown_pixels, max_shown_side  limits of a result on the page; a larger one is shown smaller
//   findable                          what `backend.find` finds: "faces and text"; "" for nothing
//   examples                          photos to choose from: [{name, alt, address}]
//
// `backend.js` restores. It has more settings in `STUDENT`, and defines `backend`, whose functions
// return promises:
//   start()                                      a sentence on where the student computes, or ""
//   open(file, task)                             a photo
//   cut(photo, crop, task)                       the crop before it is restored, to be drawn
//   restore(photo, crop, tradeoff, shown, task)  the restored crop: bytes, RGB, of the size `shown`
//   find(photo, crop, shown, task)               how strongly each pixel is found: bytes
//   save(photo, crop, view, task)                the restored crop as a PNG
// They take and return:
//   photo {name, width, height, frames, overview}            `overview` is drawn, it may be smaller
//   crop {left, top, width, height, toWidth, toHeight}       a part, and the size it is shrunk to
//   shown {width, height}                                    the size of the picture on the page
//   view {tradeoff, map, width, height, blended}             what the page shows: `map` has the
//     tradeoff of each pixel, or is null; `blended()` returns the picture as ImageData
//   task {signal, progress}                                  `signal` aborts; `progress` is called
//     with {waiting}, the number of calls in front, or with {done, all}, tiles
"use strict";

function $(id) {
  return document.getElementById(id);
}

function clamp(value, min, max) {
  return Math.min(Math.max(value, min), max);
}

// Where an event is on an element, as shares of its sides.
function pointOn(element, event) {
  const box = element.getBoundingClientRect();
  return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
}

// Gives a picture's frame the proportions of its pixels.
function fit(frame, width, height) {
  frame.style.setProperty("--ratio", width / height);
  frame.style.setProperty("--widest", width);
}

class Page {
  constructor() {
    this.cropper = new Cropper();
    this.comparison = new Comparison();
    this.photo = null;
    this.crop = null;
    this.controller = new AbortController();  // of the action that runs
    this.running = null;  // a promise of its end
    this.readController = new AbortController();  // of the file that is read meanwhile
    $("file").addEventListener("change", () => this.chooseFile());
    for (const kind of ["dragover", "dragleave", "drop"]) addEventListener(kind, (event) => this.drop(event));
    addEventListener("paste", (event) => this.take(event.clipboardData));
    $("find").addEventListener("click", () => this.run(() => this.find()));
    $("download").addEventListener("click", () => this.run(() => this.download()));
    $("recrop").addEventListener("click", () => this.run(() => this.chooseCrop()));
    this.describe();
  }

  describe() {
    document.title = STUDENT.title;
    $("title").textContent = STUDENT.title;
    $("about").textContent = STUDENT.about;
    $("promise").textContent = STUDENT.promise;
    $("file").accept = STUDENT.accept;
    const isFixed = STUDENT.tradeoff !== null;
    for (const id of ["tradeoffControl", "tools"]) $(id).hidden = isFixed;
    for (const option of $("compared").querySelectorAll("[value=realistic], [value=faithful]")) option.hidden = isFixed;
    $("find").hidden = isFixed || !STUDENT.findable;
    $("find").textContent = `Keep ${STUDENT.findable} faithful`;
    for (const { name, alt, address } of STUDENT.examples) {
      const image = Object.assign(document.createElement("img"), { src: address, alt });
      const button = document.createElement("button");
      button.type = "button";
      button.append(image, name);
      button.addEventListener("click", () => this.read(name, fetchFile(name, address)));
      $("examples").append(button);
    }
  }

  async start() {
    $("device").textContent = await backend.start();
    $("file").disabled = false;
    this.say("Open a photo to begin.");
  }

  // Runs an action of the user; the one before is aborted.
  run(action) {
    this.readController.abort();
    this.controller.abort();
    this.controller = new AbortController();
    this.running = this.finish(action, this.controller.signal);
    return this.running;
  }

  async finish(action, signal) {
    try {
      await action();
    } catch (error) {
      if (!signal.aborted) this.say(error.message, true);
    } finally {
      if (!signal.aborted) $("working").hidden = true;
    }
  }

  // ---- The photo ----

  chooseFile() {
    const [file] = $("file").files;
    if (file) this.read(file.name, file);
    $("file").value = "";  // so that the same file can be chosen again
  }

  drop(event) {
    event.preventDefault();
    $("stage").classList.toggle("over", event.type === "dragover");
    if (event.type === "drop") this.take(event.dataTransfer);
  }

  // Takes the first file of what was dropped or pasted.
  take(transfer) {
    const file = transfer?.files[0];
    if (file && !$("file").disabled) this.read(file.name, file);
  }

  // Reads a file, or a promise of one, while the action before goes on. Only a photo ends that action.
  async read(name, file) {
    this.readController.abort();
    const { signal } = this.readController = new AbortController();
    this.say(`Reading ${name} ...`);
    try {
      const photo = await backend.open(await file, { signal, progress: () => {} });
      if (!signal.aborted) await this.run(() => this.open(photo));
    } catch (error) {
      if (!signal.aborted) this.say(error.message, true);
      await this.running;  // it writes another status when it ends
      if (!signal.aborted) this.say(error.message, true);
    }
  }

  async open(photo) {
    this.photo = photo;
    const isLarge = largestShare(photo) < 1;
    $("recrop").hidden = !isLarge;
    if (isLarge) await this.chooseCrop();
    else await this.restore(shrunk(photo));
  }

  async chooseCrop() {
    const { signal } = this.controller;
    this.show("cropper", "cropping");
    this.say("This photo is large. Choose what to restore of it.");
    const crop = await this.cropper.open(this.photo);
    if (!signal.aborted) await this.restore(crop);
  }

  // Shows one picture and one set of controls.
  show(picture, controls) {
    $("welcome").hidden = true;
    for (const id of ["cropper", "comparison"]) $(id).hidden = id !== picture;
    for (const id of ["cropping", "controls"]) $(id).hidden = id !== controls;
  }

  // ---- The restoration: first where the slider starts, then at the other nodes ----

  async restore(crop) {
    const { signal } = this.controller;
    const { photo, comparison } = this;
    this.crop = crop;
    const shown = sizeShown(STUDENT.scale * crop.toWidth, STUDENT.scale * crop.toHeight);
    const pixels = await backend.cut(photo, crop, { signal, progress: () => {} });
    if (signal.aborted) return;
    $("controls").disabled = true;
    $("tradeoff").value = 0.5;
    $("value").value = "0.50";
    comparison.open(pixels, shown.width, shown.height);
    this.show("comparison", "controls");
    this.say("Restoring ...");
    const order = NODES.length > 1 ? [0.5, 0, 1] : NODES;
    const task = this.task(order.length);
    for (const node of order) {
      const colors = await backend.restore(photo, crop, node, shown, task);
      if (signal.aborted) return;
      comparison.add(node, colors);
      task.finishPart();
    }
    $("controls").disabled = false;
    this.say(this.describeResult());
  }

  describeResult() {
    const { toWidth, toHeight } = this.crop;
    const [width, height] = [toWidth, toHeight].map((side) => STUDENT.scale * side);
    let text = `${toWidth} x ${toHeight} → ${width} x ${height} pixels.`;
    if (this.photo.frames > 1) text += ` The file has ${this.photo.frames} frames; this is the first.`;
    if (this.comparison.width < width) text += ` Shown at ${this.comparison.width} x ${this.comparison.height}; the download has all pixels.`;
    return text;
  }

  // Work of equal parts. The time left is estimated by the tiles done; none is known before.
  task(parts) {
    const { signal } = this.controller;
    const began = performance.now();
    let finished = 0;
    $("progress").removeAttribute("value");
    $("eta").textContent = "";
    $("working").hidden = false;
    const progress = ({ waiting, done, all }) => {
      if (signal.aborted) return;
      if (waiting) {
        $("eta").textContent = `${waiting} in front of you`;
        return;
      }
      const share = (finished + done / all) / parts;
      $("progress").value = share;
      const seconds = (performance.now() - began) / 1000;
      if (share > 0) $("eta").textContent = `${formatSeconds(seconds / share - seconds)} left`;
    };
    const finishPart = () => {
      finished += 1;
      progress({ done: 0, all: 1 });
    };
    return { signal, progress, finishPart };
  }

  // ---- What is found in the photo is painted faithful ----

  async find() {
    const { photo, crop, comparison } = this;
    const { signal } = this.controller;
    this.say(`Looking for ${STUDENT.findable} ...`);
    const shown = { width: comparison.width, height: comparison.height };
    const strengths = await backend.find(photo, crop, shown, this.task(1));
    if (signal.aborted) return;
    if (!strengths.some((strength) => strength)) {
      this.say(`There is nothing to keep faithful: no ${STUDENT.findable} found.`);
      return;
    }
    comparison.paintFound(strengths);
    this.say(`What was found is painted faithful: ${STUDENT.findable}.`);
  }

  // ---- The download: the final tradeoffs go through the model once ----

  async download() {
    const { photo, crop, comparison } = this;
    const { signal } = this.controller;
    const { painting, tradeoff } = comparison;
    const map = painting.isEmpty ? null : painting.toMap(tradeoff);
    const blended = () => {
      const image = new ImageData(comparison.width, comparison.height);
      comparison.blend(image.data, comparison.fullArea());
      return image;
    };
    this.say("Restoring for the download ...");
    const view = { tradeoff, map, width: comparison.width, height: comparison.height, blended };
    const png = await backend.save(photo, crop, view, this.task(1));
    if (signal.aborted) return;
    const kind = map ? "painted" : `t${tradeoff}`;
    const name = `${photo.name.replace(/\.[^.]*$/, "")}_restored_${kind}.png`;
    save(png, name);
    this.say(`Downloaded ${name}.`);
  }

  say(text, failed = false) {
    $("status").textContent = text;
    $("status").classList.toggle("failed", failed);
  }
}

// As large as a picture, or as large as is shown of it.
function sizeShown(width, height) {
  const bySide = STUDENT.max_shown_side / Math.max(width, height);
  const factor = Math.min(1, bySide, Math.sqrt(STUDENT.max_shown_pixels / (width * height)));
  return { width: Math.max(1, Math.floor(factor * width)), height: Math.max(1, Math.floor(factor * height)) };
}

function formatSeconds(seconds) {
  const whole = Math.ceil(seconds);
  if (whole < 90) return `${whole} s`;
  return `${Math.ceil(whole / 60)} min`;
}

async function fetchFile(name, address) {
  const answer = await fetch(address);
  return new File([await answer.blob()], name);
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

const page = new Page();
page.run(() => page.start());
