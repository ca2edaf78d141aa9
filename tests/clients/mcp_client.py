"""An agent's side of MCP, by the official Python SDK: countersign mcp over standard input and output.

What it calls is read from standard input, a JSON object a line; what came of it is printed the same way.
"""

import asyncio
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


async def main() -> None:
    command, *arguments = sys.argv[1:]
    server = StdioServerParameters(command=command, args=arguments, env=dict(os.environ))
    async with stdio_client(server) as (read, write):
        async with ClientSession(read, write) as session:
            about = await session.initialize()
            said = about.model_dump(mode="json", by_alias=True)
            tools = (await session.list_tools()).model_dump(mode="json", by_alias=True)
            say({"about": said, "tools": tools["tools"]})
            loop = asyncio.get_running_loop()
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                asked = json.loads(line)
                try:
                    result = await session.call_tool(asked["tool"], asked["arguments"])
                    say(result.model_dump(mode="json", by_alias=True))
                except Exception as error:  # The protocol's own errors are what a test looks for.
                    say({"error": str(error)})


def say(what: object) -> None:
    print(json.dumps(what), flush=True)


asyncio.run(main())
