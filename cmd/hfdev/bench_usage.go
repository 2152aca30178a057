package main

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/holdfast/api"
	"holdfast.dev/holdfast/internal/testkit"
)

// What `system df` is measured over, at scale 1, and the targets: time, and the
// ratio to Docker's.
const (
	usageImages     = 300
	usageContainers = 200
	usageVolumes    = 500
	usageFiles      = 1_000_000

	targetUsage = 0.01

	volumesAtOnce = 50 // that one container fills
	measureLimit  = 30 * time.Minute
)

// usage measures `docker system df -v` with much to tell about.
func (b *bench) usage() {
	b.t.Helper()
	share := func(n int) int { return max(3, int(float64(n)*b.scale)) }
	images, containers, volumes := share(usageImages), share(usageContainers), share(usageVolumes)
	files := max(1, int(float64(usageFiles)*b.scale)/volumes)
	daemons := []*testkit.Daemon{b.ours}
	if b.docker != nil {
		daemons = append(daemons, b.docker)
	}
	for _, d := range daemons {
		b.fillUp(d, images, containers, volumes, files)
		defer b.empty(d, volumes)
	}
	// Of ours, everything is measured once in the background: that is its bargain.
	testkit.Poll(b.t, measureLimit, "all is measured", func() (bool, string) {
		var told api.UsageReport
		b.ours.GetJSON(api.PathUsage, &told)
		for _, i := range told.Items {
			if !i.Exact {
				return false, fmt.Sprintf("%+v", i)
			}
		}
		return true, ""
	})
	what := fmt.Sprintf("%d images, %d containers, %d volumes, %d files", images, containers, volumes, files*volumes)
	for _, kind := range []struct {
		what string
		do   func(d *testkit.Daemon)
	}{
		{"`docker system df -v`: " + what, func(d *testkit.Daemon) { d.Docker("system", "df", "-v") }},
		{"the same by the API alone", func(d *testkit.Daemon) { b.call(d, http.MethodGet, "/system/df", nil) }},
	} {
		var sides []func() float64
		for _, d := range daemons {
			sides = append(sides, func() float64 { return timed(func() { kind.do(d) }) })
		}
		s := append(b.pairs(b.count(7, 3), sides...), nil)
		b.rows = append(b.rows, row{what: kind.what, unit: milliseconds, ours: s[0], peer: s[1], name: "Docker", target: targetUsage})
	}
}

func (b *bench) fillUp(d *testkit.Daemon, images, containers, volumes, files int) {
	b.t.Helper()
	base := testkit.BusyboxLayer(b.t)
	family := make([][]byte, 10) // layers that a tenth of the images share each
	for i := range family {
		family[i] = testkit.Layer{"family": {Body: strings.Repeat(strconv.Itoa(i), 100_000)}}.Tar()
	}
	for i := range images {
		own := testkit.Layer{"own": {Body: strings.Repeat(fmt.Sprintf("%06d", i), 5_000)}}.Tar()
		d.Load(testkit.ImageSpec{Ref: fmt.Sprintf("usage%d:1", i), Layers: [][]byte{base, family[i%len(family)], own}})
	}
	for i := range containers {
		d.Docker("run", "--name", "usage"+strconv.Itoa(i), fmt.Sprintf("usage%d:1", i%images), "sh", "-c", "head -c 100000 /dev/zero > /f; mkdir /d; i=0; while [ $i -lt 20 ]; do : > /d/$i; i=$((i+1)); done")
	}
	for from := 0; from < volumes; from += volumesAtOnce {
		args := []string{"run", "--rm"}
		n := min(volumesAtOnce, volumes-from)
		for i := range n {
			args = append(args, "-v", fmt.Sprintf("usage%d:/v/%d", from+i, i))
		}
		d.Docker(append(args, "busybox", "sh", "-c", fmt.Sprintf(
			"for v in /v/*; do cd $v; i=0; while [ $i -lt %d ]; do [ $((i%%100)) -eq 0 ] && mkdir d$i && cd $v/d$i; echo $i > $i; i=$((i+1)); done; done", files))...)
	}
}

func (b *bench) empty(d *testkit.Daemon, volumes int) {
	b.t.Helper()
	d.Docker("container", "prune", "-f")
	for from := 0; from < volumes; from += volumesAtOnce { // a call has two minutes
		args := []string{"volume", "rm"}
		for i := from; i < min(from+volumesAtOnce, volumes); i++ {
			args = append(args, "usage"+strconv.Itoa(i))
		}
		d.Docker(args...)
	}
	d.Docker("image", "prune", "-a", "-f")
}
