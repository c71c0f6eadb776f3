// The server: JSON there and back. One that is busy or has gone is asked again until it answers.

const AGAIN = 1500; // ms until a server that has gone is tried again

/** The sentence of an answer that is an error. */
class Refused extends Error {}

/** Return what people are told of an error that a request met. */
export function sentenceOf(error) {
  const text = error instanceof Refused ? error.message : "The server's answer cannot be read.";
  // The server counts the objects from 0, people from 1.
  const counted = text.replace(/^object (\d+)/, (_, i) => `object ${Number(i) + 1}`);
  return counted.charAt(0).toUpperCase() + counted.slice(1);
}

/** Return bytes as a data URL. */
export async function dataUrl(blob) {
  const reader = new FileReader();
  reader.readAsDataURL(blob);
  await new Promise((resolve) => (reader.onload = resolve));
  return reader.result;
}

export class Api {
  #onState;

  /** onState: is told "ready", "busy" or "gone" of the server, as often as it answers or not. */
  constructor(onState) {
    this.#onState = onState;
  }

  about(signal) {
    return this.#json("/api/about", { signal });
  }

  search(scene, page, weights, signal) {
    return this.#json("/api/search", post({ scene, ...page, weights }, signal));
  }

  labels(scene, signal) {
    return this.#json("/api/labels", post({ scene }, signal));
  }

  like(id, page, weights, signal) {
    const query = new URLSearchParams({ ...page, ...weights });
    return this.#json(`/api/photographs/${id}/like?${query}`, { signal });
  }

  /** Return the cut-out of an object of a photograph, as a data URL. */
  async cutOut(id, number, signal) {
    const answer = await this.#answer(`/api/photographs/${id}/objects/${number}`, { signal });
    return dataUrl(await answer.blob());
  }

  layout(scene, stuff, signal) {
    return this.#json("/api/layout", post({ scene, stuff }, signal));
  }

  /** Ask for a picture; a generator that is busy or gone is an error. */
  picture(scene, stuff, signal) {
    return this.#json("/api/picture", post({ scene, stuff }, signal), false);
  }

  async #json(address, options, isPatient) {
    return (await this.#answer(address, options, isPatient)).json();
  }

  /** isPatient: ask again while the server is busy. */
  async #answer(address, options, isPatient = true) {
    for (;;) {
      const answer = await fetch(address, options).catch((error) => {
        if (options.signal?.aborted) throw error;
        return null;
      });
      if (answer?.ok) {
        this.#onState("ready");
        return answer;
      }
      if (answer && (answer.status !== 503 || !isPatient)) {
        this.#onState("ready");
        const told = await answer.json().catch(() => ({}));
        throw new Refused(told.error ?? `The server answered ${answer.status}.`);
      }
      this.#onState(answer ? "busy" : "gone");
      const seconds = Number(answer?.headers.get("Retry-After"));
      await pause(seconds > 0 ? seconds * 1000 : AGAIN, options.signal);
    }
  }
}

function post(body, signal) {
  const headers = { "Content-Type": "application/json" };
  return { method: "POST", headers, body: JSON.stringify(body), signal };
}

function pause(time, signal) {
  return new Promise((resolve, reject) => {
    setTimeout(resolve, time);
    signal?.addEventListener("abort", () => reject(signal.reason));
  });
}

/** Address of a photograph, and of a small one. */
export function photograph(id) {
  return `/api/photographs/${id}`;
}

export function thumbnail(id) {
  return `/api/photographs/${id}?size=thumbnail`;
}

/** One question at a time: a new one ends the one before, whose answer no longer counts. */
export class Latest {
  #controller = null;

  /** Return the answer of a task, null if another was run or it was stopped meanwhile. */
  async run(task) {
    this.stop();
    const controller = (this.#controller = new AbortController());
    try {
      const answer = await task(controller.signal);
      return controller.signal.aborted ? null : answer;
    } catch (error) {
      if (controller.signal.aborted) return null;
      throw error;
    }
  }

  stop() {
    this.#controller?.abort();
  }
}
