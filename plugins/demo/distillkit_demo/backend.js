// Restores on the server that this page came from. Every call sends the photo's file, so that the
// server keeps nothing. The server answers with a line of JSON for each report of its progress; the
// last line has the `size` of the result, whose bytes follow, or says why it `failed`.
"use strict";

async function call(path, parts, { signal, progress }) {
  const answer = await fetch(path, { method: "POST", body: new Blob(parts), signal });
  if (!answer.ok) throw new Error(await answer.text());
  const reader = new AnswerReader(answer.body.getReader());
  for (;;) {
    const message = await reader.line();
    if (message.failed) throw new Error(message.failed);
    if (message.size !== undefined) return { ...message, bytes: await reader.bytes(message.size) };
    progress(message);
  }
}

class AnswerReader {
  constructor(stream) {
    this.stream = stream;
    this.rest = new Uint8Array();
  }

  async line() {
    let end;
    while ((end = this.rest.indexOf(10)) < 0) {
      const more = await this.next();
      this.rest = new Uint8Array(await new Blob([this.rest, more]).arrayBuffer());
    }
    const text = new TextDecoder().decode(this.rest.subarray(0, end));
    this.rest = this.rest.subarray(end + 1);
    return JSON.parse(text);
  }

  async bytes(size) {
    const bytes = new Uint8Array(size);
    bytes.set(this.rest);
    for (let filled = this.rest.length; filled < size;) {
      const more = await this.next();
      bytes.set(more, filled);
      filled += more.length;
    }
    return bytes;
  }

  async next() {
    const { value, done } = await this.stream.read();
    if (done) throw new Error("The server broke off its answer. Its log may say why.");
    return value;
  }
}

function query(crop, rest) {
  const { left, top, width, height, toWidth, toHeight } = crop;
  return new URLSearchParams({ crop: [left, top, width, height, toWidth, toHeight], ...rest });
}

function bitmap(bytes) {
  return createImageBitmap(new Blob([bytes], { type: "image/png" }));
}

const backend = {
  async start() {
    return "";
  },

  async open(file, task) {
    if (file.size > STUDENT.max_file_bytes) {
      const limit = (STUDENT.max_file_bytes / 2 ** 20).toFixed(1);
      throw new Error(`${file.name} is larger than the ${limit} MB that this page takes.`);
    }
    const { width, height, frames, bytes } = await call("photo", [file], task);
    return { file, name: file.name, width, height, frames, overview: await bitmap(bytes) };
  },

  async cut(photo, crop, task) {
    const { bytes } = await call(`cut?${query(crop)}`, [photo.file], task);
    return bitmap(bytes);
  },

  async restore(photo, crop, tradeoff, shown, task) {
    const options = query(crop, { tradeoff, shown: [shown.width, shown.height] });
    const { bytes } = await call(`restore?${options}`, [photo.file], task);
    return bytes;
  },

  async find(photo, crop, shown, task) {
    const options = query(crop, { shown: [shown.width, shown.height] });
    const { bytes } = await call(`find?${options}`, [photo.file], task);
    return bytes;
  },

  async save(photo, crop, { tradeoff, map, width, height }, task) {
    const parts = map ? [photo.file, map] : [photo.file];
    const options = query(crop, map ? { map: [width, height] } : { tradeoff });
    const { bytes } = await call(`save?${options}`, parts, task);
    return new Blob([bytes], { type: "image/png" });
  },
};
