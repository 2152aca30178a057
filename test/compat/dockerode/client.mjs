// dockerode against Holdfast's socket. Run by test/compat with DOCKER_HOST set and
// the image busybox loaded; prints the name of each step, ends with 0 if all went
// well.
import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { text } from "node:stream/consumers";
import { setTimeout as pause } from "node:timers/promises";
import Docker from "dockerode";

const docker = new Docker();
const step = (name) => console.log("step:", name);

async function until(what, condition) {
  for (const end = Date.now() + 30_000; !(await condition()); await pause(50)) {
    assert(Date.now() < end, `not in time: ${what}`);
  }
}

const collect = () => {
  const chunks = [];
  const stream = new PassThrough();
  stream.on("data", (c) => chunks.push(c));
  return [stream, () => Buffer.concat(chunks).toString()];
};
const ended = (stream) => new Promise((ok, bad) => stream.on("end", ok).on("close", ok).on("error", bad));

step("system");
assert.equal((await docker.ping()).toString(), "OK");
assert((await docker.version()).ApiVersion);
assert((await docker.info()).Driver);

step("run");
let [out, got] = collect();
let [result, container] = await docker.run("busybox", ["sh", "-c", "echo hello; exit 3"], out, { HostConfig: { AutoRemove: false } });
assert.equal(result.StatusCode, 3);
assert.match(got(), /hello/);
await container.remove();

step("errors");
await assert.rejects(docker.getContainer("nosuch").inspect(), (e) => e.statusCode === 404 && /No such container: nosuch/.test(e.message));
await assert.rejects(docker.createContainer({ Image: "nosuch" }), (e) => e.statusCode === 404);

step("container's life");
container = await docker.createContainer({
  name: "node", Image: "busybox", Cmd: ["sh", "-c", "echo ready; echo oops >&2; exec sleep 600"],
  Labels: { who: "node" }, ExposedPorts: { "80/tcp": {} },
  HostConfig: { Init: true, PortBindings: { "80/tcp": [{ HostIp: "127.0.0.1", HostPort: "" }] }, Mounts: [{ Type: "volume", Source: "nodedata", Target: "/data" }] },
});
await container.start();
await until("log", async () => (await container.logs({ stdout: true })).includes("ready"));
let info = await container.inspect();
assert(info.State.Running && info.NetworkSettings.Ports["80/tcp"][0].HostPort);
assert.deepEqual((await docker.listContainers({ filters: { label: ["who=node"] } })).map((c) => c.Names[0]), ["/node"]);
const logs = await container.logs({ follow: true, stdout: true, stderr: true });
const [stdout, gotOut] = collect();
const [stderr, gotErr] = collect();
container.modem.demuxStream(logs, stdout, stderr);
await until("both streams", async () => gotOut() === "ready\n" && gotErr() === "oops\n");
logs.destroy();
assert((await container.stats({ stream: false })).memory_stats.usage > 0);

step("exec");
const exec = await container.exec({ Cmd: ["cat"], AttachStdin: true, AttachStdout: true });
const duplex = await exec.start({ hijack: true, stdin: true });
[out, got] = collect();
container.modem.demuxStream(duplex, out, out);
duplex.write("through\n");
await until("echo", async () => got() === "through\n");
duplex.end(); // half a close: cat ends
await ended(duplex);
await until("exec ended", async () => !(await exec.inspect()).Running);
assert.equal((await exec.inspect()).ExitCode, 0);

step("attach");
const typed = await docker.createContainer({ Image: "busybox", Cmd: ["cat"], OpenStdin: true, StdinOnce: true, AttachStdin: true, AttachStdout: true });
const stream = await typed.attach({ stream: true, stdin: true, stdout: true, hijack: true });
[out, got] = collect();
typed.modem.demuxStream(stream, out, out);
await typed.start();
stream.write("attached\n");
stream.end();
assert.equal((await typed.wait()).StatusCode, 0);
await until("output", async () => got() === "attached\n");
await typed.remove();

step("archives");
const tar = await container.getArchive({ path: "/etc/hostname" });
assert.match(await text(tar), /hostname/);

step("pause, stop, remove");
await container.pause();
assert((await container.inspect()).State.Paused);
await container.unpause();
const waiting = container.wait();
await container.stop({ t: 10 });
assert.equal((await waiting).StatusCode, 143);
await assert.rejects(container.stop(), (e) => e.statusCode === 304);
await container.remove({ v: true });

step("images");
assert((await docker.listImages()).some((i) => i.RepoTags?.includes("busybox:latest")));
await docker.getImage("busybox").tag({ repo: "node/copy", tag: "v1" });
const loaded = await docker.loadImage(await docker.getImage("node/copy:v1").get());
assert.match(await text(loaded), /node\/copy:v1/);
await docker.getImage("node/copy:v1").remove();

step("volumes and networks");
const volume = await docker.createVolume({ Name: "nodevol" });
assert.equal((await volume.inspect()).Driver, "local");
await volume.remove();
await docker.getVolume("nodedata").remove();
const network = await docker.createNetwork({ Name: "nodenet" });
const member = await docker.createContainer({ Image: "busybox", Cmd: ["sleep", "600"], HostConfig: { Init: true, NetworkMode: "nodenet" }, NetworkingConfig: { EndpointsConfig: { nodenet: { Aliases: ["alias"] } } } });
await member.start();
assert.equal(Object.values((await network.inspect()).Containers).length, 1);

step("events");
const events = await docker.getEvents({ filters: { type: ["container"], container: [member.id] } });
const seen = [];
events.on("data", (c) => seen.push(...c.toString().trim().split("\n").map((l) => JSON.parse(l).Action)));
await member.remove({ force: true });
await until("destroy", async () => seen.includes("destroy"));
events.destroy();
await network.remove();
console.log("all went well");
