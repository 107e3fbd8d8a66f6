// What tests in JavaScript do with Testcontainers, without its reaper.
import assert from "node:assert";
import { GenericContainer, Network, Wait, getContainerRuntimeClient } from "testcontainers";

const network = await new Network().start();
const page = await new GenericContainer("busybox:latest")
  .withCommand(["sh", "-c", "mkdir -p /www; cat /hello > /www/index.html; echo listening; exec httpd -f -p 80 -h /www"])
  .withCopyContentToContainer([{ content: "hello\n", target: "/hello" }])
  .withEnvironment({ MODE: "test" })
  .withLabels({ of: "test" })
  .withNetwork(network)
  .withNetworkAliases("page")
  .withTmpFs({ "/scratch": "size=1m" })
  .withExposedPorts(80)
  .withHealthCheck({ test: ["CMD", "test", "-f", "/www/index.html"], interval: 200, retries: 50 })
  .withWaitStrategy(Wait.forAll([Wait.forLogMessage("listening"), Wait.forListeningPorts(), Wait.forHealthCheck(), Wait.forHttp("/", 80)]))
  .start();
const answer = await fetch(`http://${page.getHost()}:${page.getMappedPort(80)}/`);
assert.equal(await answer.text(), "hello\n");

const other = await new GenericContainer("busybox:latest")
  .withCommand(["sleep", "1000"]).withNetwork(network).start();
const asked = await other.exec(["wget", "-q", "-O", "-", "http://page/"]);
assert.deepEqual([asked.output, asked.exitCode], ["hello\n", 0]);
const failed = await other.exec(["sh", "-c", "echo $MODE >&2; exit 3"], { env: { MODE: "x" } });
assert.deepEqual([failed.exitCode, failed.stderr], [3, "x\n"]);

await page.copyContentToContainer([{ content: "changed\n", target: "/www/index.html" }]);
const again = await fetch(`http://${page.getHost()}:${page.getMappedPort(80)}/`);
assert.equal(await again.text(), "changed\n");
const archive = await page.copyArchiveFromContainer("/www/index.html");
let bytes = 0;
for await (const piece of archive) bytes += piece.length;
assert.ok(bytes > 512);

await page.restart();
assert.ok(page.getMappedPort(80) > 0);
const logs = await page.logs();
await new Promise((resolve) => logs.on("data", (line) => line.includes("listening") && resolve()));
logs.destroy();

const image = await other.commit({ repo: "from-test", tag: "1" });
const committed = await new GenericContainer("from-test:1").withCommand(["sleep", "1000"]).start();
await committed.stop();

await Promise.all([page.stop(), other.stop()]);
await network.stop();
const client = await getContainerRuntimeClient();
assert.equal((await client.container.list()).length, 0);
console.log("all of Testcontainers for Node");
process.exit(0);
