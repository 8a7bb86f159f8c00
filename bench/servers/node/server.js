// The same as naive.py, on Node with ws and ioredis.
// Usage: node server.js PORT REDIS_PORT KEY

import { createHmac, randomUUID, timingSafeEqual } from "node:crypto";
import { Redis } from "ioredis";
import { WebSocketServer, WebSocket } from "ws";

const [port, redisPort, key] = process.argv.slice(2);
const topics = new Map();
const redis = new Redis(Number(redisPort));

function authentic(token) {
  const [header, claims, signature] = token.split(".");
  const made = createHmac("sha256", key).update(`${header}.${claims}`).digest();
  const given = Buffer.from(signature, "base64url");
  return given.length === made.length && timingSafeEqual(given, made) &&
    JSON.parse(Buffer.from(claims, "base64url")).exp > Date.now() / 1000;
}

redis.on("message", (topic, snapshot) => {
  const message = JSON.stringify({ action: "message", topic, snapshot: JSON.parse(snapshot) });
  for (const client of topics.get(topic) ?? []) {
    if (client.readyState === WebSocket.OPEN) client.send(message);
  }
});

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(port), backlog: 4096, perMessageDeflate: false });

server.on("connection", (client) => {
  const reply = (message) => client.send(JSON.stringify(message));
  reply({ action: "connect", message: "connection established" });
  reply({ action: "session", message: "waiting", session: randomUUID() });
  const mine = new Set();
  client.on("message", async (text) => {
    const { action, context } = JSON.parse(text);
    if (action === "authorization") {
      reply({ action: "session", message: authentic(context) ? "session authenticated" : "session unauthorized" });
    } else if (action === "subscribe") {
      mine.add(context);
      if (!topics.has(context)) topics.set(context, new Set());
      topics.get(context).add(client);
      await redis.subscribe(context);
      reply({ action: "subscribe", message: "context subscribed" });
    }
  });
  client.on("error", () => client.terminate());
  client.on("close", () => mine.forEach((topic) => topics.get(topic).delete(client)));
});
