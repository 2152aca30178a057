"""docker-py against Holdfast's socket. Run by test/compat with DOCKER_HOST set
and the image busybox loaded; prints the name of each step, ends with 0 if all
went well."""

import io
import tarfile
import threading
import time

import docker
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound

client = docker.from_env(timeout=60)


def step(name):
    print("step:", name, flush=True)


def until(what, condition):
    """Polls a condition for half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "not in time: " + what
        time.sleep(0.05)


def refused(kind, call, text=""):
    try:
        call()
    except kind as e:
        assert text in str(e), f"{e} lacks {text}"
        return e
    raise AssertionError(f"not refused: {text}")


step("system")
assert client.ping()
assert client.version()["ApiVersion"]
info = client.info()
assert info["Driver"] and info["DockerRootDir"], info
client.df()

step("run")
assert client.containers.run("busybox", ["echo", "hello"], remove=True) == b"hello\n"
assert client.containers.run("busybox", "sh -c 'echo $A'", environment={"A": "b c"}, remove=True) == b"b c\n"
e = refused(ContainerError, lambda: client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], remove=True, stderr=True))
assert e.exit_status == 3 and b"bad" in e.stderr, e
refused(NotFound, lambda: client.containers.get("nosuch"), "No such container: nosuch")
refused(ImageNotFound, lambda: client.images.get("nosuch"), "No such image")
until("removed containers are gone", lambda: client.containers.list(all=True) == [])

step("container's life")
c = client.containers.run(
    "busybox", ["sh", "-c", "trap 'exit 0' TERM; echo ready; echo oops >&2; while :; do sleep 0.1; done"],
    detach=True, name="life", labels={"who": "py"}, ports={"80/tcp": ("127.0.0.1", None)},
    volumes={"pydata": {"bind": "/data", "mode": "rw"}}, mem_limit="64m", healthcheck={"test": ["CMD", "true"], "interval": 200_000_000},
)
until("log", lambda: b"ready" in c.logs() and b"oops" in c.logs())
assert c.logs(stdout=False, stderr=True) == b"oops\n", c.logs(stdout=False, stderr=True)
assert len(c.logs(tail=1).splitlines()) == 1
assert next(iter(c.logs(stream=True, follow=True, stderr=False))).startswith(b"ready")
c.reload()
assert c.status == "running" and c.labels == {"who": "py"}, c.attrs
assert c.ports["80/tcp"][0]["HostIp"] == "127.0.0.1", c.ports
assert c.attrs["HostConfig"]["Memory"] == 64 << 20
until("healthy", lambda: client.api.inspect_container("life")["State"]["Health"]["Status"] == "healthy")
assert [x.name for x in client.containers.list(filters={"label": "who=py"})] == ["life"]
assert c.stats(stream=False)["memory_stats"]["usage"] > 0
assert "PID" in c.top()["Titles"]
c.pause()
c.reload()
assert c.status == "paused"
c.unpause()
c.update(mem_limit="80m", memswap_limit="160m")
c.rename("renamed")
assert client.containers.get("renamed").id == c.id

step("exec")
code, out = c.exec_run(["sh", "-c", "echo out; echo err >&2; exit 4"], demux=True)
assert code == 4 and out == (b"out\n", b"err\n"), (code, out)
code, out = c.exec_run("tty", tty=True)
assert code == 0 and b"/dev/pts" in out, out
code, out = c.exec_run("cat", socket=True, stdin=True)
out._sock.sendall(b"through\n")
assert b"through" in out.read(16)
out.close()

step("attach")
stdin = client.api.create_container("busybox", ["cat"], stdin_open=True, name="stdin")
sock = client.api.attach_socket("stdin", params={"stdin": 1, "stdout": 1, "stream": 1})
client.api.start("stdin")
sock._sock.sendall(b"attached\n")
assert b"attached" in sock.read(17)
sock.close()
client.api.remove_container("stdin", force=True)

step("archives")
buf = io.BytesIO()
with tarfile.open(fileobj=buf, mode="w") as t:
    h = tarfile.TarInfo("put")
    h.size = 3
    t.addfile(h, io.BytesIO(b"abc"))
assert c.put_archive("/data", buf.getvalue())
stream, stat = c.get_archive("/data/put")
assert stat["name"] == "put" and stat["size"] == 3, stat
with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as t:
    assert t.extractfile("put").read() == b"abc"
c.exec_run("touch /made")
assert {"Path": "/made", "Kind": 1} in c.diff(), c.diff()
assert len(b"".join(c.export())) > 1 << 20

step("stop and wait")
waiting = []
t = threading.Thread(target=lambda: waiting.append(c.wait()))
t.start()
c.stop(timeout=10)
t.join(30)
assert waiting and waiting[0]["StatusCode"] == 0, waiting
c.start()
c.kill()
assert c.wait()["StatusCode"] == 137
c.restart()
c.remove(force=True)

step("images")
image = client.images.get("busybox")
assert image.tags == ["busybox:latest"] and image.history()
assert image.tag("py/copy", tag="v1")
saved = b"".join(client.images.get("py/copy:v1").save(named="py/copy:v1"))
client.images.remove("py/copy:v1")
refused(ImageNotFound, lambda: client.images.get("py/copy:v1"))
assert client.images.load(saved)[0].tags, "load"
client.images.remove("py/copy:v1")
root = client.containers.create("busybox", ["true"])
committed = root.commit("py/committed", tag="v1", changes=["ENV A=b"])
assert "A=b" in committed.attrs["Config"]["Env"]
imported = client.api.import_image_from_data(b"".join(root.export()), repository="py/imported")
assert "sha256:" in imported, imported
root.remove()
for ref in ("py/committed:v1", "py/imported"):
    client.images.remove(ref)

step("build")
built, log = client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN echo made > /made\nCMD [\"cat\", \"/made\"]\n"), tag="py/built", rm=True)
assert client.containers.run("py/built", remove=True) == b"made\n"
assert any("stream" in line for line in log)
refused(docker.errors.BuildError, lambda: client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN exit 9\n")))
client.images.remove("py/built")

step("volumes")
v = client.volumes.create("pyvol", labels={"a": "b"})
assert v.attrs["Driver"] == "local" and v.attrs["Labels"] == {"a": "b"}
assert [x.name for x in client.volumes.list(filters={"label": "a=b"})] == ["pyvol"]
user = client.containers.create("busybox", volumes={"pyvol": {"bind": "/v"}})
assert refused(APIError, v.remove, "volume is in use").status_code == 409
user.remove()
v.remove()
refused(NotFound, lambda: client.volumes.get("pyvol"))
client.volumes.get("pydata").remove()

step("networks")
n = client.networks.create("pynet", driver="bridge", ipam=docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="10.77.0.0/24", gateway="10.77.0.1")]))
c = client.containers.run("busybox", ["sleep", "600"], detach=True, name="netted", init=True)
n.connect(c, aliases=["alias"], ipv4_address="10.77.0.9")
n.reload()
assert [x.name for x in n.containers] == ["netted"]
c.reload()
assert c.attrs["NetworkSettings"]["Networks"]["pynet"]["IPAddress"] == "10.77.0.9"
assert b"10.77.0.9" in client.containers.run("busybox", ["nslookup", "alias"], network="pynet", remove=True)
assert refused(APIError, n.remove, "has active endpoints").status_code == 403
n.disconnect(c)
n.remove()

step("events")
since = int(time.time()) - 60
c.remove(force=True)
seen = [e["Action"] for e in client.events(since=since, until=int(time.time()) + 1, decode=True, filters={"container": "netted"})]
assert "create" in seen and "start" in seen and "destroy" in seen, seen
print("all went well")
