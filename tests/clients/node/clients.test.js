// openai and the AI SDK against a server process.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { before, test } from "node:test";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateObject, generateText, jsonSchema, streamText, tool } from "ai";
import OpenAI from "openai";

const URL = process.env.RECALLKV_CLIENTS_URL;
const MODEL = "demo";
const TOKENS = 12;
const QUESTION = "What is my dog called?";
const PROMPTS = ["Say hello.", "Name a colour.", "Count to three."];
const TOO_LONG = "word ".repeat(9000);
const DOG = { type: "object", properties: { name: { type: "string" } }, required: ["name"], additionalProperties: false };

assert.ok(URL, "make test-clients starts a server, and tells the tests where it is");
const memory = { cube: `pets-${randomUUID()}`, mode: "kv" };

async function post(path, body) {
  const headers = { "content-type": "application/json" };
  const reply = await fetch(URL + path, { method: "POST", headers, body: JSON.stringify(body) });
  assert.equal(reply.status, 201);
}

before(async () => {
  await post("/v1/cubes", { name: memory.cube });
  await post("/v1/memories", { text: "My dog is called Biscuit.", cube: memory.cube });
});

function checkReceipt(receipt) {
  assert.equal(receipt.mode, "kv");
  assert.equal(receipt.memories.length, 1);
}

const told = (content) => [{ role: "user", content }];

class ByOpenAI {
  client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "none", maxRetries: 0 });

  ask(prompt, more) {
    const body = { model: MODEL, messages: told(prompt), temperature: 0, max_tokens: TOKENS, ...more };
    return this.client.chat.completions.create(body);
  }

  async chat(prompt, memory) {
    const reply = await this.ask(prompt, { memory });
    return { text: reply.choices[0].message.content, receipt: reply.memory };
  }

  async stream(prompt, memory) {
    const parts = [];
    let receipt;
    for await (const chunk of await this.ask(prompt, { memory, stream: true })) {
      parts.push(chunk.choices[0].delta.content ?? "");
      receipt ??= chunk.memory;
    }
    return { parts, receipt };
  }

  structured(prompt) {
    return this.ask(prompt, { response_format: { type: "json_schema", json_schema: { name: "dog", schema: DOG } } });
  }

  tools(prompt) {
    return this.ask(prompt, { tools: [{ type: "function", function: { name: "weather", parameters: DOG } }] });
  }

  check(error, code, words) {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.code, code);
    assert.ok(error.message.includes(words));
    return true;
  }
}

class ByAISDK {
  model = createOpenAICompatible({
    name: "recallkv",
    baseURL: `${URL}/v1`,
    apiKey: "none",
    supportsStructuredOutputs: true,
  }).chatModel(MODEL);

  wish(prompt, memory, more) {
    const providerOptions = memory ? { recallkv: { memory } } : {};
    return { model: this.model, prompt, temperature: 0, maxOutputTokens: TOKENS, maxRetries: 0, providerOptions, ...more };
  }

  async chat(prompt, memory) {
    const { text, response } = await generateText(this.wish(prompt, memory));
    return { text, receipt: response.body.memory };
  }

  async stream(prompt, memory) {
    let failure;
    let receipt;
    const wish = this.wish(prompt, memory, { includeRawChunks: true, onError: ({ error }) => (failure = error) });
    const parts = [];
    for await (const part of streamText(wish).fullStream) {
      if (part.type === "text-delta") parts.push(part.text);
      if (part.type === "raw") receipt ??= part.rawValue.memory;
    }
    if (failure) throw failure;
    return { parts, receipt };
  }

  structured(prompt) {
    return generateObject(this.wish(prompt, undefined, { schema: jsonSchema(DOG) }));
  }

  tools(prompt) {
    return generateText(this.wish(prompt, undefined, { tools: { weather: tool({ inputSchema: jsonSchema(DOG) }) } }));
  }

  check(error, code, words) {
    assert.ok(APICallError.isInstance(error));
    assert.equal(error.statusCode, 400);
    assert.equal(JSON.parse(error.responseBody).error.code, code);
    assert.ok(error.message.includes(words));
    return true;
  }
}

for (const Client of [ByOpenAI, ByAISDK]) {
  const client = new Client();

  test(`${Client.name}: chat, and streaming says the same`, async () => {
    const { text } = await client.chat(PROMPTS[1]);
    const { parts } = await client.stream(PROMPTS[1]);
    assert.ok(text.trim());
    assert.equal(parts.join(""), text);
    assert.ok(parts.length > 1);
  });

  test(`${Client.name}: memory, and its receipt`, async () => {
    const { text, receipt } = await client.chat(QUESTION, memory);
    const streamed = await client.stream(QUESTION, memory);
    assert.ok(text.includes("Biscuit"));
    assert.equal(streamed.parts.join(""), text);
    checkReceipt(receipt);
    checkReceipt(streamed.receipt);
    assert.ok(!(await client.chat(QUESTION, { ...memory, mode: "off" })).text.includes("Biscuit"));
  });

  test(`${Client.name}: several questions at once`, async () => {
    const together = await Promise.all(PROMPTS.map((prompt) => client.chat(prompt)));
    for (const [i, prompt] of PROMPTS.entries()) {
      assert.equal(together[i].text, (await client.chat(prompt)).text);
    }
  });

  test(`${Client.name}: an over-long prompt is told from other errors`, async () => {
    for (const way of ["chat", "stream"]) {
      await assert.rejects(client[way](TOO_LONG), (e) => client.check(e, "context_length_exceeded", "maximum context"));
    }
  });

  test(`${Client.name}: what the engine cannot do is refused by name`, async () => {
    await assert.rejects(client.structured(PROMPTS[0]), (e) => client.check(e, "unsupported", "response_format:"));
    await assert.rejects(client.tools(PROMPTS[0]), (e) => client.check(e, "unsupported", "tools:"));
  });
}

test("openai completes several prompts", async () => {
  const { client } = new ByOpenAI();
  const wish = { model: MODEL, temperature: 0, max_tokens: TOKENS };
  const { choices } = await client.completions.create({ ...wish, prompt: PROMPTS });
  assert.deepEqual(choices.map((choice) => choice.index), [0, 1, 2]);
  for (const [i, prompt] of PROMPTS.entries()) {
    const alone = await client.completions.create({ ...wish, prompt });
    assert.equal(choices[i].text, alone.choices[0].text);
  }
});

test("a stream that is given up ends", async () => {
  const stream = await new ByOpenAI().ask(PROMPTS[0], { stream: true, max_tokens: 500, ignore_eos: true });
  let seen = 0;
  for await (const _ of stream) {
    if (++seen === 3) stream.controller.abort();
  }
  assert.ok(seen < 500);
});
