package preflight

import (
	"strings"
	"testing"
)

func TestFileSystem(t *testing.T) {
	const table = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
31 22 0:28 /vol /pools/default rw,noatime - btrfs /dev/loop0 rw,subvolid=5,subvol=/,ssd
40 22 0:41 / /mnt/share\040one rw - cifs //nas/x rw,vers=3.0,username=me,addr=10.0.0.1,nobrl
41 22 0:41 / broken`
	for id, want := range map[uint64]string{
		22: "ext4 discard,relatime,rw", 31: "btrfs noatime,rw,ssd", 40: "cifs nobrl,rw,vers=3.0", 41: "", 5: "",
	} {
		if got, ok := fileSystem(table, id); got != want || ok != (want != "") {
			t.Errorf("%d: got %q", id, got)
		}
	}
	got, err := FileSystem(t.TempDir())
	if err != nil || !strings.Contains(got, "rw") {
		t.Errorf("here: %q, %v", got, err)
	}
}
