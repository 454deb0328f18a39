// The page: a photo is opened, restored at a few tradeoffs, looked at and downloaded.
//
// Before this script come `STUDENT`, what the page has to know of the student, and `backend`, what
// restores. Its functions return promises:
//   start()                                     gets ready, and tells what restores
//   open(file)                                  the photo: {name, width, height, frames, overview}
//   cut(photo, crop)                            the pixels of a crop, as they are restored
//   restore(photo, crop, tradeoff, shown, task) the restored crop, RGB, of the size that is shown
//   find(photo, crop, shown, task)              how much of each pixel is what STUDENT.finds names
//   save(photo, crop, look, task)               a PNG, restored at {tradeoff, map, blended}
// A task has a `signal` that aborts it, and is told of its `progress`.
"use strict";

function $(id) {
  return document.getElementById(id);
}

function clamp(value, least, most) {
  return Math.min(Math.max(value, least), most);
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
    this.controller = new AbortController();
    this.reading = new AbortController();
    this.running = null;
    $("file").addEventListener("change", () => this.chooseFile());
    for (const kind of ["dragover", "dragleave", "drop"]) addEventListener(kind, (event) => this.drop(event));
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
    $("find").hidden = isFixed || !STUDENT.finds;
    $("find").textContent = `Keep ${STUDENT.finds} faithful`;
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

  // Runs what a person asked for; what they asked for before is given up.
  run(action) {
    this.reading.abort();
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
    const file = event.dataTransfer?.files[0];
    if (event.type === "drop" && file && !$("file").disabled) this.read(file.name, file);
  }

  // Reads a photo's file, or one on its way, beside what runs, which goes on where this is no photo.
  async read(name, file) {
    this.reading.abort();
    const { signal } = this.reading = new AbortController();
    this.say(`Reading ${name} ...`);
    try {
      const photo = await backend.open(await file, { signal, progress: () => {} });
      if (!signal.aborted) await this.run(() => this.open(photo));
    } catch (error) {
      if (!signal.aborted) this.say(error.message, true);
      await this.running;  // which says something else when it ends
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
    const crop = await this.cropper.ask(this.photo);
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
    this.say(`Looking for ${STUDENT.finds} ...`);
    const shown = { width: comparison.width, height: comparison.height };
    const strengths = await backend.find(photo, crop, shown, this.task(1));
    if (signal.aborted) return;
    if (!strengths.some((strength) => strength)) {
      this.say(`There is nothing to keep faithful: no ${STUDENT.finds} found.`);
      return;
    }
    comparison.paintFound(strengths);
    this.say(`What was found is painted faithful: ${STUDENT.finds}.`);
  }

  // ---- The download: the final tradeoffs go through the model once ----

  async download() {
    const { photo, crop, comparison } = this;
    const { signal } = this.controller;
    const { painting, tradeoff } = comparison;
    const map = painting.isEmpty ? null : painting.toMap(tradeoff);
    const blended = () => {
      const image = new ImageData(comparison.width, comparison.height);
      comparison.blend(image.data, comparison.everywhere());
      return image;
    };
    this.say("Restoring for the download ...");
    const look = { tradeoff, map, width: comparison.width, height: comparison.height, blended };
    const png = await backend.save(photo, crop, look, this.task(1));
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
  const bySide = STUDENT.most_side_shown / Math.max(width, height);
  const factor = Math.min(1, bySide, Math.sqrt(STUDENT.most_shown / (width * height)));
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
