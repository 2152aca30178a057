package api

import (
	"testing"

	"holdfast.dev/holdfast/internal/testkit"
)

// An image that a container mounts: read-only, in part, kept while the container
// is there, and there again after the daemon was killed.
func TestMountImage(t *testing.T) {
	t.Parallel()
	notOnTwin(t, "docker 20.10 has no image mounts")
	d := own(t, testkit.Options{})
	d.Load(testkit.ImageSpec{Ref: "data:1", Layers: [][]byte{testkit.Layer{"d": {Dir: true}, "d/f": {Body: "of the image"}, "out": {Link: "/etc"}}.Tar()}})
	up(d, "--name", "reader", "--mount", "type=image,source=data:1,target=/all", "--mount", "type=image,source=data:1,target=/part,image-subpath=d",
		"busybox", "sleep", "600")
	equal(t, "files", d.Docker("exec", "reader", "cat", "/all/d/f", "/part/f"), "of the imageof the image")
	contains(t, "written", d.DockerResult("exec", "reader", "touch", "/all/x").Err, "Read-only file system")
	equal(t, "inspect", format(d, "reader", `{{range .Mounts}}{{.Type}} {{.Source}} {{.Destination}} {{.RW}};{{end}}`), "image data:1 /all false;image data:1 /part false;")
	d.DockerFails("is using", "image", "rm", "data:1")
	equal(t, "prune", d.Docker("image", "prune", "-af", "--filter", "label!=x"), "Total reclaimed space: 0B")

	d.KillAndStart()
	equal(t, "after a kill", d.Docker("exec", "reader", "cat", "/part/f"), "of the image")
	d.Docker("restart", "-t", "0", "reader")
	equal(t, "after a restart", d.Docker("exec", "reader", "cat", "/part/f"), "of the image")
	d.Docker("kill", "reader")
	d.WaitState("reader", "exited")
	d.PowerLoss()
	d.Start()
	d.Docker("start", "reader")
	equal(t, "after a power loss", d.Docker("exec", "reader", "cat", "/all/d/f"), "of the image")

	d.Docker("run", "--rm", "--volumes-from", "reader", "busybox", "cat", "/part/f")
	d.DockerFails("No such image: absent:latest", "create", "--mount", "type=image,source=absent,target=/a", "busybox")
	d.DockerFails("subpath must be a relative path", "create", "--mount", "type=image,source=data:1,target=/a,image-subpath=../x", "busybox")
	d.DockerFails("escapes", "run", "--rm", "--mount", "type=image,source=data:1,target=/a,image-subpath=out/passwd", "busybox")
	d.Docker("rm", "-f", "reader")
	d.Docker("image", "rm", "data:1")
}
