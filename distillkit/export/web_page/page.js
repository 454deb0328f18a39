// Restores photos in the browser. A worker runs the student at a few tradeoffs; the page blends
// their images, so that knob and brush need no network. Everything comes from the scripts beside
// this one, because pages opened from a disk may not fetch files.
"use strict";

const FIXED = STUDENT.tradeoff;  // null: the tradeoff can be chosen
const NODES = FIXED === null ? [0, 0.5, 1] : [FIXED];
const MOST_PIXELS = 500000;
const MOST_UNDO = 5;
const SUFFIX = "restored";

const $ = (id) => document.getElementById(id);
const picture = $("picture");
const pen = picture.getContext("2d");

let worker = null;
let photo = null;      // {name, width, height, canvas, colors, gray}
let nodes = [];        // of the photo, RGBA of the restored image at each of NODES
let painted = null;    // {weight, value}: how much a brush has painted a pixel, and with what
let undoable = [];
let turn = 0;          // counts photos, so that what belongs to a former one is dropped

// ---- The worker: this function's text, after that of onnxruntime-web, is its script. ----

function work() {
  let session = null;
  let student = null;

  onmessage = async ({ data }) => {
    try {
      if (data.kind === "load") {
        await load(data);
        postMessage({ kind: "loaded" });
      } else {
        const pixels = await restore(data);
        postMessage({ kind: "restored", pixels }, [pixels.buffer]);
      }
    } catch (error) {
      postMessage({ kind: "failed", text: String(error.message || error) });
    }
  };

  async function load({ module, wasm, graph, settings }) {
    student = settings;
    const url = URL.createObjectURL(new Blob([module], { type: "text/javascript" }));
    ort.env.wasm.wasmPaths = { mjs: url };
    ort.env.wasm.wasmBinary = wasm;
    ort.env.wasm.numThreads = 1;  // more would need headers, which a folder cannot send
    session = await ort.InferenceSession.create(graph, { executionProviders: ["wasm"] });
  }

  // Tiles and weights are those of the Restorer, so that the image is the same.
  async function restore({ colors, width, height, gray, tradeoff }) {
    const { scale } = student;
    const { rows, columns, overlap } = planTiles(height, width);
    const boxes = [];
    for (const [top, bottom] of rows) {
      for (const [left, right] of columns) boxes.push({ top, bottom, left, right });
    }
    const sum = new Float32Array(3 * scale * height * scale * width);
    const weights = new Float32Array(scale * height * scale * width);
    for (const [done, box] of boxes.entries()) {
      const tensor = await restoreTile(colors, width, height, box, tradeoff);
      addTile(sum, weights, tensor, width, height, box, overlap);
      postMessage({ kind: "progress", done: done + 1, all: boxes.length });
    }
    return toPixels(sum, weights, gray);
  }

  // Equal tiles that start at multiples, with as few pixels in overlaps as possible. All lengths but
  // the spans' count multiples.
  function planTiles(height, width) {
    const multiple = student.size_multiple;
    const area = Math.max(Math.floor(student.tile ** 2 / multiple ** 2), 1);
    const shared = Math.min(Math.ceil(student.overlap / multiple), Math.floor(Math.sqrt(area)) - 1);
    const rows = Math.ceil(height / multiple);
    const columns = Math.ceil(width / multiple);
    let best = null;
    for (let down = 1; down <= Math.max(rows - shared, 1); down++) {
      const side = balancedSide(rows, down, shared);
      const widest = Math.floor(area / side);
      if (widest <= shared && widest < columns) continue;
      const across = columns <= widest ? 1 : Math.ceil((columns - shared) / (widest - shared));
      const count = down * across;
      const pixels = count * side * balancedSide(columns, across, shared);
      const fewer = best && (pixels < best.pixels || (pixels === best.pixels && count < best.count));
      if (!best || fewer) best = { pixels, count, down, across };
    }
    return {
      rows: spans(height, best.down, shared),
      columns: spans(width, best.across, shared),
      overlap: shared * multiple,
    };
  }

  function balancedSide(length, count, shared) {
    return Math.ceil((length + (count - 1) * shared) / count);
  }

  function spans(length, count, shared) {
    const multiple = student.size_multiple;
    const multiples = Math.ceil(length / multiple);
    const side = balancedSide(multiples, count, shared);
    return Array.from({ length: count }, (_, i) => {
      const start = Math.floor(i * (multiples - side) / Math.max(count - 1, 1));
      return [start * multiple, Math.min((start + side) * multiple, length)];
    });
  }

  function ramp(start, end, length, overlap) {
    const { scale } = student;
    const size = (end - start) * scale;
    const quarter = Math.floor(overlap * scale / 4);
    const rise = overlap * scale - 2 * quarter;
    return Float32Array.from({ length: size }, (_, position) => {
      let distance = Infinity;
      if (start > 0) distance = position + 1;
      if (end < length) distance = Math.min(distance, size - position);
      return Math.min(Math.max((distance - quarter) / (rise + 1), 1e-6), 1);
    });
  }

  // Sides are padded to the multiple that the network takes, by reflection where there is enough.
  function padded(side) {
    const multiple = student.size_multiple;
    const full = Math.ceil(side / multiple) * multiple;
    return { full, reflects: full - side < side };
  }

  async function restoreTile(colors, width, height, box, tradeoff) {
    const rows = box.bottom - box.top;
    const columns = box.right - box.left;
    const down = padded(rows);
    const across = padded(columns);
    const reflects = down.reflects && across.reflects;
    const source = (i, side) => (i < side ? i : reflects ? 2 * side - 2 - i : side - 1);
    const values = new Float32Array(3 * down.full * across.full);
    let i = 0;
    for (let channel = 0; channel < 3; channel++) {
      for (let y = 0; y < down.full; y++) {
        const row = (channel * height + box.top + source(y, rows)) * width + box.left;
        for (let x = 0; x < across.full; x++) values[i++] = colors[row + source(x, columns)];
      }
    }
    const image = new ort.Tensor("float32", values, [1, 3, down.full, across.full]);
    const feeds = { image };
    if (student.tradeoff === null) {
      feeds.tradeoff = new ort.Tensor("float32", Float32Array.of(tradeoff), []);
    }
    return (await session.run(feeds)).restored;
  }

  function addTile(sum, weights, tensor, width, height, box, overlap) {
    const { scale } = student;
    const [rows, columns] = tensor.dims.slice(2);
    const down = ramp(box.top, box.bottom, height, overlap);
    const across = ramp(box.left, box.right, width, overlap);
    const plane = scale * height * scale * width;
    for (let y = 0; y < down.length; y++) {
      const target = (box.top * scale + y) * scale * width + box.left * scale;
      for (let x = 0; x < across.length; x++) {
        const weight = down[y] * across[x];
        weights[target + x] += weight;
        for (let channel = 0; channel < 3; channel++) {
          const value = tensor.data[(channel * rows + y) * columns + x];
          sum[channel * plane + target + x] += weight * value;
        }
      }
    }
  }

  function toPixels(sum, weights, gray) {
    const count = weights.length;
    const pixels = new Uint8ClampedArray(4 * count);
    for (let i = 0; i < count; i++) {
      let colors = [0, 1, 2].map((channel) => sum[channel * count + i] / weights[i]);
      if (!Number.isFinite(colors[0] + colors[1] + colors[2])) {
        throw new Error("the student gave values that are not finite");
      }
      if (gray) {
        const [red, green, blue] = colors.map((value) => Math.min(Math.max(value, 0), 1));
        colors = Array(3).fill(0.299 * red + 0.587 * green + 0.114 * blue);
      }
      for (let channel = 0; channel < 3; channel++) pixels[4 * i + channel] = 255 * colors[channel];
      pixels[4 * i + 3] = 255;
    }
    return pixels;
  }
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function startWorker() {
  worker?.terminate();
  const script = `${ONNXRUNTIME.script}\n(${work})();`;
  const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  worker = new Worker(url);
  const { graph, ...settings } = STUDENT;
  await ask({
    kind: "load",
    module: ONNXRUNTIME.module,
    wasm: await unpack(ONNXRUNTIME.wasm),
    graph: await unpack(graph),
    settings,
  });
}

// Asks the worker for one thing; the page asks for the next when this is answered.
function ask(question, progress) {
  const asked = worker;
  return new Promise((resolve, reject) => {
    asked.onerror = (event) => reject(new Error(event.message || "the worker did not start"));
    asked.onmessage = ({ data }) => {
      if (data.kind === "progress") progress(data);
      else if (data.kind === "failed") reject(new Error(data.text));
      else resolve(data.pixels);
    };
    asked.postMessage(question);
  });
}

function restoreAt(tradeoff, before, all) {
  const began = performance.now();
  const { colors, width, height, gray } = photo;
  return ask({ kind: "restore", colors, width, height, gray, tradeoff }, ({ done, all: tiles }) => {
    const share = (before + done / tiles) / all;
    const left = ((performance.now() - began) / 1000) * ((all - before) * tiles / done - 1);
    say(`Restoring: ${Math.round(100 * share)} %, about ${Math.max(Math.round(left), 0)} s left.`);
  });
}

// ---- The photo ----

async function openPhoto(file) {
  const mine = ++turn;
  const busy = photo !== null && nodes.length < NODES.length;
  say("Reading the photo ...");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    say(`${file.name} is not an image that this browser reads. Choose a PNG, JPEG or WebP.`, true);
    return;
  }
  if (busy) await startWorker();
  if (mine !== turn) return;
  photo = readPhoto(file.name, bitmap);
  nodes = [];
  await restoreNodes(mine, bitmap);
}

function readPhoto(name, bitmap) {
  const shrink = Math.min(1, Math.sqrt(MOST_PIXELS / (bitmap.width * bitmap.height)));
  const width = Math.max(1, Math.floor(bitmap.width * shrink));
  const height = Math.max(1, Math.floor(bitmap.height * shrink));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const visible = context.getImageData(0, 0, width, height).data;
  const filled = fillHidden(canvas).getContext("2d").getImageData(0, 0, width, height).data;
  const count = width * height;
  const colors = new Float32Array(3 * count);
  let gray = true;
  for (let i = 0; i < count; i++) {
    const source = visible[4 * i + 3] ? visible : filled;
    for (let channel = 0; channel < 3; channel++) {
      colors[channel * count + i] = source[4 * i + channel] / 255;
    }
    gray &&= visible[4 * i] === visible[4 * i + 1] && visible[4 * i] === visible[4 * i + 2];
  }
  return { name, width, height, canvas, colors, gray };
}

// Gives transparent pixels the colors of opaque ones nearby, which the network would see as black.
function fillHidden(canvas) {
  const { width, height } = canvas;
  const filled = new OffscreenCanvas(width, height);
  const context = filled.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  context.globalCompositeOperation = "destination-over";
  for (let size = 2; size < 2 * Math.max(width, height); size *= 2) {
    const small = new OffscreenCanvas(Math.ceil(width / size), Math.ceil(height / size));
    small.getContext("2d").drawImage(canvas, 0, 0, small.width, small.height);
    context.drawImage(small, 0, 0, width, height);
  }
  return filled;
}

async function restoreNodes(mine, bitmap) {
  const { width, height } = photo;
  const { scale } = STUDENT;
  picture.width = scale * width;
  picture.height = scale * height;
  painted = { weight: new Uint8Array(scale * width * scale * height), value: null };
  painted.value = new Uint8Array(painted.weight.length);
  undoable = [];
  $("controls").disabled = true;
  $("view").value = "restored";
  $("work").hidden = false;
  pen.drawImage(photo.canvas, 0, 0, picture.width, picture.height);
  const found = [];
  for (const [i, node] of NODES.entries()) {
    const pixels = await restoreAt(node, i, NODES.length);
    if (mine !== turn) return;
    found.push(pixels);
    if (i === 0) pen.putImageData(new ImageData(pixels, picture.width), 0, 0);
  }
  nodes = found;
  $("controls").disabled = false;
  draw();
  const shrunk = width < bitmap.width ? `The photo was shrunk from ${bitmap.width} x ${bitmap.height}. ` : "";
  say(`${shrunk}${width} x ${height} → ${picture.width} x ${picture.height} pixels.`);
}

// ---- The picture: Lagrange's interpolation between the nodes, at each pixel's tradeoff ----

function tradeoffAt(base, i) {
  const weight = painted.weight[i] / 255;
  return base + weight * (painted.value[i] / 255 - base);
}

function blend(area) {
  const image = new ImageData(area.width, area.height);
  const base = Number($("tradeoff").value);
  let target = 0;
  for (let y = area.top; y < area.top + area.height; y++) {
    for (let x = area.left; x < area.left + area.width; x++) {
      const i = y * picture.width + x;
      const source = 4 * i;
      if (nodes.length === 1) {
        for (let channel = 0; channel < 3; channel++) image.data[target + channel] = nodes[0][source + channel];
      } else {
        const t = tradeoffAt(base, i);
        const realistic = (1 - t) * (1 - 2 * t);
        const middle = 4 * t * (1 - t);
        const faithful = t * (2 * t - 1);
        for (let channel = 0; channel < 3; channel++) {
          const k = source + channel;
          image.data[target + channel] = realistic * nodes[0][k] + middle * nodes[1][k] + faithful * nodes[2][k];
        }
      }
      image.data[target + 3] = 255;
      target += 4;
    }
  }
  return image;
}

function mapImage(area) {
  const image = new ImageData(area.width, area.height);
  const base = FIXED ?? Number($("tradeoff").value);
  for (let y = 0, target = 0; y < area.height; y++) {
    for (let x = 0; x < area.width; x++, target += 4) {
      const t = tradeoffAt(base, (area.top + y) * picture.width + area.left + x);
      image.data.fill(255 * t, target, target + 3);
      image.data[target + 3] = 255;
    }
  }
  return image;
}

function everywhere() {
  return { left: 0, top: 0, width: picture.width, height: picture.height };
}

function draw(area = everywhere()) {
  const view = $("view").value;
  picture.setAttribute("aria-label", $("view").selectedOptions[0].text);
  if (view === "photo") {
    pen.clearRect(0, 0, picture.width, picture.height);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(photo.canvas, 0, 0, picture.width, picture.height);
    return;
  }
  const image = view === "map" ? mapImage(area) : blend(area);
  if (view === "restored") applyOpacity(image, area);
  pen.putImageData(image, area.left, area.top);
}

function applyOpacity(image, area) {
  const { scale } = STUDENT;
  const enlarged = new OffscreenCanvas(area.width, area.height);
  const context = enlarged.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(photo.canvas, -area.left, -area.top, scale * photo.width, scale * photo.height);
  const { data } = context.getImageData(0, 0, area.width, area.height);
  for (let i = 3; i < data.length; i += 4) image.data[i] = data[i];
}

// ---- Knob and brush ----

let drawing = false;

function drawSoon() {
  $("value").value = Number($("tradeoff").value).toFixed(2);
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    draw();
  });
}

function brush() {
  return document.querySelector("input[name=brush]:checked").value;
}

function dab(event) {
  const box = picture.getBoundingClientRect();
  const border = picture.clientLeft;
  const x = ((event.clientX - box.left - border) / picture.clientWidth) * picture.width;
  const y = ((event.clientY - box.top - border) / picture.clientHeight) * picture.height;
  const radius = (Number($("size").value) / 200) * Math.max(picture.width, picture.height);
  const left = Math.max(Math.floor(x - radius), 0);
  const top = Math.max(Math.floor(y - radius), 0);
  const right = Math.min(Math.ceil(x + radius), picture.width);
  const bottom = Math.min(Math.ceil(y + radius), picture.height);
  if (left >= right || top >= bottom) return;
  for (let row = top; row < bottom; row++) {
    for (let column = left; column < right; column++) {
      paint(row * picture.width + column, Math.hypot(column + 0.5 - x, row + 0.5 - y) / radius);
    }
  }
  draw({ left, top, width: right - left, height: bottom - top });
}

// The inner half of a brush paints wholly; from there it fades.
function paint(i, distance) {
  const strength = Math.round(255 * Math.min(Math.max(2 - 2 * distance, 0), 1));
  const value = 255 * Number(brush());
  const before = painted.weight[i];
  if (painted.value[i] === value || before === 0) {
    painted.value[i] = value;
    painted.weight[i] = Math.max(before, strength);
  } else if (strength >= 128) {
    painted.value[i] = value;
    painted.weight[i] = strength;
  } else {
    painted.weight[i] = Math.min(before, 255 - strength);
  }
}

function restorePainting(former) {
  painted = former;
  draw();
}

function copyOfPainting() {
  return { weight: painted.weight.slice(), value: painted.value.slice() };
}

picture.addEventListener("pointerdown", (event) => {
  if ($("controls").disabled || brush() === "") return;
  undoable = [...undoable, copyOfPainting()].slice(-MOST_UNDO);
  picture.setPointerCapture(event.pointerId);
  dab(event);
});
picture.addEventListener("pointermove", (event) => {
  if (picture.hasPointerCapture(event.pointerId)) dab(event);
});
$("undo").addEventListener("click", () => {
  if (undoable.length) restorePainting(undoable.pop());
});
$("clear").addEventListener("click", () => {
  undoable = [...undoable, copyOfPainting()].slice(-MOST_UNDO);
  painted.weight.fill(0);
  draw();
});
$("tradeoff").addEventListener("input", drawSoon);
$("view").addEventListener("change", () => draw());

// ---- Saving: without a painted map, the student restores once more at exactly this tradeoff ----

async function save() {
  const mine = turn;
  const t = FIXED ?? Number($("tradeoff").value);
  const isPainted = painted.weight.some(Boolean);
  let image = blend(everywhere());
  if (!isPainted && !NODES.includes(t)) {
    $("controls").disabled = true;
    const pixels = await restoreAt(t, 0, 1);
    if (mine !== turn) return;
    image = new ImageData(pixels, picture.width);
    $("controls").disabled = false;
  }
  applyOpacity(image, everywhere());
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await canvas.convertToBlob({ type: "image/png" }));
  const stem = photo.name.replace(/\.[^.]*$/, "");
  link.download = `${stem}_${SUFFIX}_${isPainted ? "painted" : `t${t}`}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  say(`Saved ${link.download}.`);
}

// ---- The page ----

function say(text, failed = false) {
  $("status").textContent = text;
  $("status").classList.toggle("failed", failed);
}

function explain(error) {
  say(`This did not work: ${error.message}. Reload the page, or try a smaller photo.`, true);
}

$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) openPhoto(file).catch(explain);
  $("file").value = "";
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    const file = event.dataTransfer?.files[0];
    if (kind === "drop" && file && !$("file").disabled) openPhoto(file).catch(explain);
  });
}
$("save").addEventListener("click", () => save().catch(explain));

document.title = `${STUDENT.recipe}: restore a photo`;
$("title").textContent = document.title;
$("about").textContent = STUDENT.about;
for (const id of ["knob", "brushes"]) $(id).hidden = FIXED !== null;
startWorker().then(
  () => {
    $("file").disabled = false;
    say("Ready.");
  },
  explain,
);
