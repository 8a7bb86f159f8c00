"""The naive server: what one writes in forty lines with websockets, redis-py and the library's ``broadcast()``."""

import asyncio
import json
import sys
from collections import defaultdict
from uuid import uuid4

import jwt
from redis.asyncio import Redis
from websockets.asyncio.server import ServerConnection, broadcast, serve


async def main(port: int, redis_port: int, key: str) -> None:
    topics: defaultdict[str, set[ServerConnection]] = defaultdict(set)
    pubsub = Redis(port=redis_port).pubsub()
    await pubsub.subscribe("__nobody")  # listen() ends when nothing is subscribed

    async def handle(client: ServerConnection) -> None:
        await client.send('{"action":"connect","message":"connection established"}')
        await client.send(json.dumps({"action": "session", "message": "waiting", "session": str(uuid4())}))
        async for text in client:
            request = json.loads(text)
            if request["action"] == "authorization":
                jwt.decode(request["context"], key, algorithms=["HS256"])
                await client.send('{"action":"session","message":"session authenticated"}')
            else:
                topics[request["context"]].add(client)
                await pubsub.subscribe(request["context"])
                await client.send('{"action":"subscribe","message":"context subscribed"}')

    async with serve(handle, "127.0.0.1", port, backlog=4096):
        async for message in pubsub.listen():
            if message["type"] == "message":
                topic, snapshot = message["channel"].decode(), json.loads(message["data"])
                broadcast(topics[topic], json.dumps({"action": "message", "topic": topic, "snapshot": snapshot}))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
