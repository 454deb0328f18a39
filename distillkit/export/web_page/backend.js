// Restores in the browser itself: a worker runs the student. Everything comes from the scripts
// beside this one, because pages opened from a disk may not fetch files.
"use strict";

// Each script of a build sets its own.
const ONNXRUNTIME = {};
const DEVICES = { webgpu: "on the graphics card (WebGPU)", wasm: "on the processor (WebAssembly)" };

// The worker's script is onnxruntime-web followed by the text of this function.
function runWorker() {
  const TWO_GRAY_LEVELS = 2 / 255;
  const PROOF_SIDE = 48;
  let student = null;
  let graph = null;
  let provider = null;
  let session = null;
  let shape = "";

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

  async function load(data) {
    ({ graph, provider, settings: student } = data);
    const url = URL.createObjectURL(new Blob([data.module], { type: "text/javascript" }));
    ort.env.wasm.wasmPaths = { mjs: url };
    ort.env.wasm.wasmBinary = data.wasm;
    ort.env.wasm.numThreads = 1;  // more would need headers, which a folder cannot send
    if (provider === "webgpu") await proveProvider();
  }

  // Drivers of graphics cards are many. One is used if it gives the image that the processor gives.
  async function proveProvider() {
    const side = Math.ceil(PROOF_SIDE / student.size_multiple) * student.size_multiple;
    // Smooth, because noise drives some networks so far out of range that rounding counts.
    const wave = (i) => 0.5 + 0.2 * Math.sin((i % side) / 5) + 0.2 * Math.cos(Math.floor(i / side) / 7);
    const values = Float32Array.from({ length: 3 * side * side }, (_, i) => wave(i));
    const images = [];
    for (const by of ["wasm", provider]) {
      await openSession(side, side, by);
      const { data } = await run(values, side, side, 0.5);
      images.push(data.map((value) => Math.min(Math.max(value, 0), 1)));
    }
    const [expected, image] = images;
    const worst = expected.reduce((most, value, i) => Math.max(most, Math.abs(value - image[i])), 0);
    // A comparison with NaN is false, so images that are not finite are refused as well.
    if (!(worst <= TWO_GRAY_LEVELS)) throw new Error("it gives another image than the processor");
  }

  // WebGPU plans its buffers for one shape, so a session has one shape.
  async function openSession(height, width, by) {
    const wanted = `${height} x ${width} by ${by}`;
    if (wanted === shape) return;
    await session?.release();
    session = await ort.InferenceSession.create(graph, {
      executionProviders: [by],
      freeDimensionOverrides: { height, width },
    });
    shape = wanted;
  }

  // Runs the student on an image (3, height, width) with values of 0 to 1.
  async function run(values, height, width, tradeoff) {
    const feeds = { image: new ort.Tensor("float32", values, [1, 3, height, width]) };
    if (student.tradeoff === null) {
      feeds.tradeoff = new ort.Tensor("float32", Float32Array.of(tradeoff), []);
    }
    return (await session.run(feeds)).restored;
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
    await openSession(down.full, across.full, provider);
    return run(values, down.full, across.full, tradeoff);
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
    const pixels = new Uint8ClampedArray(3 * count);
    for (let i = 0; i < count; i++) {
      let colors = [0, 1, 2].map((channel) => sum[channel * count + i] / weights[i]);
      if (!Number.isFinite(colors[0] + colors[1] + colors[2])) {
        throw new Error("the student gave values that are not finite");
      }
      if (gray) {
        const [red, green, blue] = colors.map((value) => Math.min(Math.max(value, 0), 1));
        colors = Array(3).fill(0.299 * red + 0.587 * green + 0.114 * blue);
      }
      for (let channel = 0; channel < 3; channel++) pixels[3 * i + channel] = 255 * colors[channel];
    }
    return pixels;
  }
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function loadScript(name) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = name;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${name} could not be loaded`));
    document.head.append(script);
  });
}

// The student in a worker, which handles one message at a time.
class Student {
  // Chooses where the student computes; the address may name it ("?run=wasm"). Resolves to a sentence.
  async start() {
    const named = new URLSearchParams(location.search).get("run");
    if (named !== null && !(named in DEVICES)) {
      throw new Error(`?run=${named} - name ${Object.keys(DEVICES).join(" or ")}`);
    }
    const card = named === "wasm" ? null : await navigator.gpu?.requestAdapter();
    if (named === "webgpu" && !card) throw new Error("?run=webgpu - this browser offers no WebGPU here");
    if (named) {
      await this.load(named);
      return `${DEVICES[named]}, as the address says.`;
    }
    let why = "this browser offers no graphics card here";
    // One that software imitates is slower than the processor itself.
    if (card && !card.info.isFallbackAdapter) {
      try {
        await this.load("webgpu");
        return `${DEVICES.webgpu}.`;
      } catch (error) {
        why = `the graphics card is not used: ${error.message}`;
      }
    }
    await this.load("wasm");
    return `${DEVICES.wasm}: ${why}.`;
  }

  // Starts a worker. Calls that come while it starts wait for the same one.
  load(provider) {
    this.end();
    this.provider = provider;
    this.loaded = this.startWorker(provider);
    return this.loaded;
  }

  async startWorker(provider) {
    if (!ONNXRUNTIME[provider]) await loadScript(`${provider}.js`);
    const { script, module, wasm } = ONNXRUNTIME[provider];
    const text = `${script}\n(${runWorker})();`;
    const address = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    this.worker = new Worker(address);
    const { graph, ...settings } = STUDENT;
    await this.call({
      kind: "load", provider, module, wasm: await unpack(wasm), graph: await unpack(graph), settings,
    });
  }

  end() {
    this.worker?.terminate();
    this.worker = null;
    this.loaded = null;
  }

  async restore(input, { signal, progress }) {
    // A worker that computes hears nothing: it is ended, and the next call loads another one.
    const stop = () => this.end();
    try {
      await (this.loaded ?? this.load(this.provider));
      signal.throwIfAborted();
      signal.addEventListener("abort", stop);
      return await this.call({ kind: "restore", ...input }, progress);
    } catch (error) {
      // One that failed may be broken. After an abort, it is another call's.
      if (!signal.aborted) this.end();
      const otherwise = this.provider === "webgpu" ? ", or add ?run=wasm to the address" : "";
      throw new Error(`This did not work: ${error.message}. Try a smaller photo${otherwise}.`);
    } finally {
      signal.removeEventListener("abort", stop);
    }
  }

  call(message, progress) {
    const { worker } = this;
    return new Promise((resolve, reject) => {
      worker.onerror = (event) => reject(new Error(event.message || "the worker did not start"));
      worker.onmessage = ({ data }) => {
        if (data.kind === "progress") progress(data);
        else if (data.kind === "failed") reject(new Error(data.text));
        else resolve(data.pixels);
      };
      worker.postMessage(message);
    });
  }
}

// ---- The photo ----

function cutCanvas(photo, { left, top, width, height, toWidth, toHeight }) {
  const canvas = new OffscreenCanvas(toWidth, toHeight);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(photo.overview, left, top, width, height, 0, 0, toWidth, toHeight);
  return canvas;
}

// The colors that the network sees, channel by channel, and whether all are gray.
function readColors(canvas) {
  const { width, height } = canvas;
  const pixelsOf = (drawn) => drawn.getContext("2d").getImageData(0, 0, width, height).data;
  const visible = pixelsOf(canvas);
  const filled = pixelsOf(fillHidden(canvas));
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
  return { colors, gray };
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

// ---- The backend, as page.js describes it ----

const PNG_HEADER = 33;  // bytes of the signature and of the chunk IHDR
// The chunk that says that colors are sRGB's: its length, its name, "perceptual", its CRC.
const SRGB = Uint8Array.of(0, 0, 0, 1, 0x73, 0x52, 0x47, 0x42, 0, 0xae, 0xce, 0x1c, 0xe9);

const student = new Student();

const backend = {
  start() {
    return student.start();
  },

  async open(file) {
    try {
      const overview = await createImageBitmap(file);
      return { name: file.name, width: overview.width, height: overview.height, frames: 1, overview };
    } catch {
      throw new Error(`${file.name} is damaged, or no image that this browser reads. Choose a PNG, JPEG or WebP.`);
    }
  },

  async cut(photo, crop) {
    return cutCanvas(photo, crop);
  },

  restore(photo, crop, tradeoff, shown, task) {
    const canvas = cutCanvas(photo, crop);
    const { width, height } = canvas;
    return student.restore({ ...readColors(canvas), width, height, tradeoff }, task);
  },

  // A painted photo is the blend that is shown: the graph takes one tradeoff for all pixels.
  async save(photo, crop, { tradeoff, map, blended }, task) {
    const image = blended();
    if (!map && !NODES.includes(tradeoff)) {
      const colors = await this.restore(photo, crop, tradeoff, null, task);
      for (let i = 0, k = 0; i < image.data.length; i += 4, k += 3) {
        image.data.set(colors.subarray(k, k + 3), i);
      }
    }
    const canvas = new OffscreenCanvas(image.width, image.height);
    canvas.getContext("2d").putImageData(image, 0, 0);
    const png = await canvas.convertToBlob({ type: "image/png" });
    return new Blob([png.slice(0, PNG_HEADER), SRGB, png.slice(PNG_HEADER)], { type: "image/png" });
  },
};
