package sendstream

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to change owners")
	}
}

type av struct {
	a attribute
	v any // string, []byte, uint64, UUID
}

func encode(version uint32, kind uint16, as ...av) []byte {
	var body []byte
	for _, a := range as {
		var v []byte
		switch x := a.v.(type) {
		case string:
			v = []byte(x)
		case []byte:
			v = x
		case int:
			v = binary.LittleEndian.AppendUint64(nil, uint64(x))
		case UUID:
			v = x[:]
		}
		body = binary.LittleEndian.AppendUint16(body, uint16(a.a))
		if version < 2 || a.a != attrData {
			body = binary.LittleEndian.AppendUint16(body, uint16(len(v)))
		}
		body = append(body, v...)
	}
	return seal(kind, body)
}

// seal gives a command its length and checksum.
func seal(kind uint16, body []byte) []byte {
	h := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
	h = binary.LittleEndian.AppendUint16(h, kind)
	sum := checksum(append(h, 0, 0, 0, 0), body)
	return append(binary.LittleEndian.AppendUint32(h, sum), body...)
}

func begin(version uint32) []byte {
	return binary.LittleEndian.AppendUint32([]byte(Magic), version)
}

var own, other = UUID{1}, UUID{2}

// stream is a full one with these commands.
func stream(version uint32, commands ...[]byte) []byte {
	b := append(begin(version), encode(version, cmdSubvol, av{attrPath, "s"}, av{attrUUID, own}, av{attrCtransid, 7})...)
	for _, c := range commands {
		b = append(b, c...)
	}
	return append(b, encode(version, cmdEnd)...)
}

func apply(t testing.TB, b []byte, dir string) error {
	t.Helper()
	root, err := os.Open(dir)
	must(t, err)
	defer root.Close()
	s, err := Begin(bytes.NewReader(b))
	if err != nil {
		return err
	}
	_, err = s.Apply(t.Context(), root, nil)
	return err
}

func at(p string) av { return av{attrPath, p} }

func mkfile(p string) []byte { return encode(1, cmdMkfile, at(p)) }
func mkdir(p string) []byte  { return encode(1, cmdMkdir, at(p)) }
func symlink(p, to string) []byte {
	return encode(1, cmdSymlink, at(p), av{attrPathLink, to})
}

func TestBothVersions(t *testing.T) {
	needRoot(t)
	for version := uint32(1); version <= 2; version++ {
		dir := t.TempDir()
		big := strings.Repeat("x", 60000)
		must(t, apply(t, stream(version,
			mkfile("o1"), encode(1, cmdRename, at("o1"), av{attrPathTo, "f"}),
			encode(version, cmdWrite, at("f"), av{attrOffset, 4}, av{attrData, big}),
			mkfile("g"),
			encode(1, cmdClone, at("g"), av{attrOffset, 0}, av{attrCloneLen, 8}, av{attrCloneUUID, own}, av{attrClonePath, "f"}, av{attrCloneOffset, 0}),
			encode(1, cmdTruncate, at("f"), av{attrSize, 5}),
			encode(1, cmdFallocate, at("f"), av{attrFallocate, []byte{1, 0, 0, 0}}, av{attrOffset, 0}, av{attrSize, 100}),
			encode(1, cmdChown, at("f"), av{attrUID, 70}, av{attrGID, 71}),
			encode(1, cmdChmod, at("f"), av{attrMode, 0o4751}),
			mkdir("d"), encode(1, cmdLink, at("d/h"), av{attrPathLink, "f"}),
			symlink("d/l", "../f"), encode(1, cmdChown, at("d/l"), av{attrUID, 5}, av{attrGID, 6}),
			encode(1, cmdMknod, at("null"), av{attrMode, unix.S_IFCHR | 0o666}, av{attrRdev, 1<<8 | 3}),
			encode(1, cmdMkfifo, at("fifo")), encode(1, cmdMksock, at("sock")),
			encode(1, cmdUtimes, at("f"), av{attrAtime, make([]byte, 12)}, av{attrMtime, []byte{9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}}),
			mkfile("gone"), encode(1, cmdUnlink, at("gone")), mkdir("gone2"), encode(1, cmdRmdir, at("gone2")),
			encode(1, cmdChmod, at(""), av{attrMode, 0o711}),
		), dir))
		b, err := os.ReadFile(filepath.Join(dir, "d/h"))
		must(t, err)
		if string(b) != "\x00\x00\x00\x00x" {
			t.Errorf("version %d: f: %q", version, b)
		}
		b, err = os.ReadFile(filepath.Join(dir, "g"))
		must(t, err)
		if string(b) != "\x00\x00\x00\x00xxxx" {
			t.Errorf("version %d: g: %q", version, b)
		}
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(dir, "f"), &st))
		if st.Uid != 70 || st.Gid != 71 || st.Mode&0o7777 != 0o4751 || st.Mtim.Sec != 9 || st.Mtim.Nsec != 1 || st.Nlink != 2 {
			t.Errorf("version %d: f: %+v", version, st)
		}
		must(t, unix.Stat(filepath.Join(dir, "null"), &st))
		if st.Rdev != unix.Mkdev(1, 3) || st.Mode&unix.S_IFMT != unix.S_IFCHR {
			t.Errorf("version %d: null: %+v", version, st)
		}
		must(t, unix.Lstat(filepath.Join(dir, "d/l"), &st))
		if st.Uid != 5 || st.Mode&unix.S_IFMT != unix.S_IFLNK {
			t.Errorf("version %d: l: %+v", version, st)
		}
		must(t, unix.Stat(dir, &st))
		if st.Mode&0o7777 != 0o711 {
			t.Errorf("version %d: root: %o", version, st.Mode)
		}
		es, err := os.ReadDir(dir)
		must(t, err)
		if len(es) != 6 { // d f fifo g null sock
			t.Errorf("version %d: %v", version, es)
		}
	}
}

// hostileStreams try to leave the tree, or are none at all.
func hostileStreams(outside string) map[string][]byte {
	write := func(p string) []byte {
		return encode(1, cmdWrite, at(p), av{attrOffset, 0}, av{attrData, "evil"})
	}
	good := stream(1, mkfile("a"), write("a"))
	bad := bytes.Clone(good)
	bad[len(bad)-20] ^= 1
	return map[string][]byte{
		"parent":               stream(1, mkfile("../evil")),
		"parent inside":        stream(1, mkdir("a"), mkfile("a/../../evil")),
		"absolute":             stream(1, mkfile(outside+"/evil")),
		"through a link":       stream(1, symlink("d", outside), mkfile("d/evil")),
		"write through a link": stream(1, symlink("f", outside+"/precious"), write("f")),
		"truncate a link":      stream(1, symlink("f", outside+"/precious"), encode(1, cmdTruncate, at("f"), av{attrSize, 0})),
		"chmod a link":         stream(1, symlink("f", outside+"/precious"), encode(1, cmdChmod, at("f"), av{attrMode, 0o777})),
		"rename out":           stream(1, mkfile("a"), encode(1, cmdRename, at("a"), av{attrPathTo, "../evil"})),
		"rename in":            stream(1, encode(1, cmdRename, at(outside+"/precious"), av{attrPathTo, "a"})),
		"link out":             stream(1, encode(1, cmdLink, at("a"), av{attrPathLink, outside + "/precious"})),
		"link by a link":       stream(1, symlink("d", outside), encode(1, cmdLink, at("a"), av{attrPathLink, "d/precious"})),
		"unlink out":           stream(1, symlink("d", outside), encode(1, cmdUnlink, at("d/precious"))),
		"clone from outside":   stream(1, symlink("d", outside), mkfile("a"), encode(1, cmdClone, at("a"), av{attrOffset, 0}, av{attrCloneLen, 1}, av{attrCloneUUID, own}, av{attrClonePath, "d/precious"}, av{attrCloneOffset, 0})),
		"clone from another":   stream(1, mkfile("a"), encode(1, cmdClone, at("a"), av{attrOffset, 0}, av{attrCloneLen, 1}, av{attrCloneUUID, other}, av{attrClonePath, "a"}, av{attrCloneOffset, 0})),
		"clone more":           stream(1, mkfile("b"), mkfile("a"), encode(1, cmdClone, at("a"), av{attrOffset, 0}, av{attrCloneLen, 100}, av{attrCloneUUID, own}, av{attrClonePath, "b"}, av{attrCloneOffset, 0})),
		"write to a device":    stream(1, encode(1, cmdMknod, at("z"), av{attrMode, unix.S_IFCHR}, av{attrRdev, 1<<8 | 5}), write("z")),
		"write to a pipe":      stream(1, encode(1, cmdMkfifo, at("p")), write("p")),
		"a file by mknod":      stream(1, encode(1, cmdMknod, at("z"), av{attrMode, unix.S_IFREG | 0o6777}, av{attrRdev, 0})),
		"twice":                stream(1, mkfile("a"), mkfile("a")),
		"no such file":         stream(1, write("a")),
		"file as directory":    stream(1, mkfile("a"), mkfile("a/b")),
		"remove the root":      stream(1, encode(1, cmdRmdir, at(""))),
		"odd command":          stream(1, encode(1, 99, at("a"))),
		"compressed":           stream(2, mkfile("a"), encode(2, 25, at("a"), av{attrOffset, 0}, av{attrData, "x"})),
		"no path":              stream(1, encode(1, cmdMkfile)),
		"far away":             stream(1, mkfile("a"), encode(1, cmdWrite, at("a"), av{attrOffset, []byte{0, 0, 0, 0, 0, 0, 0, 255}}, av{attrData, "x"})),
		"short number":         stream(1, mkfile("a"), encode(1, cmdTruncate, at("a"), av{attrSize, []byte{1}})),
		"attribute twice":      stream(1, encode(1, cmdMkfile, at("a"), at("a"))),
		"attribute too long":   append(stream(1)[:60], seal(cmdMkfile, []byte{15, 0, 255, 255, 'a'})...),
		"second beginning":     stream(1, encode(1, cmdSubvol, at("s"), av{attrUUID, own}, av{attrCtransid, 7})),
		"bad time":             stream(1, mkfile("a"), encode(1, cmdUtimes, at("a"), av{attrAtime, bytes.Repeat([]byte{255}, 12)}, av{attrMtime, make([]byte, 12)})),
		"damaged":              bad,
		"cut off":              good[:len(good)-3],
		"no end":               good[:len(good)-headerSize],
		"nothing":              {},
		"text":                 []byte(strings.Repeat("this is no stream ", 100)),
		"other version":        append([]byte(Magic), 3, 0, 0, 0),
		"huge command":         append(begin(1), 255, 255, 255, 255, 1, 0, 0, 0, 0, 0),
		"first is a file":      append(begin(1), mkfile("a")...),
		"no parent":            append(begin(1), encode(1, cmdSnapshot, at("s"), av{attrUUID, own}, av{attrCtransid, 7}, av{attrCloneUUID, UUID{}}, av{attrCloneCtransid, 1})...),
	}
}

// outsideOf is a directory with something in it that must stay as it is.
func outsideOf(t testing.TB) (string, func(testing.TB)) {
	t.Helper()
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "precious"), []byte("p"), 0o600))
	return outside, func(t testing.TB) {
		t.Helper()
		es, err := os.ReadDir(outside)
		must(t, err)
		b, err := os.ReadFile(filepath.Join(outside, "precious"))
		fi, serr := os.Stat(filepath.Join(outside, "precious"))
		if len(es) != 1 || err != nil || string(b) != "p" || serr != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("outside: %v, %q, %v, %v", es, b, err, fi)
		}
	}
}

func TestHostileStreams(t *testing.T) {
	needRoot(t)
	outside, whole := outsideOf(t)
	for name, b := range hostileStreams(outside) {
		dir := filepath.Join(t.TempDir(), "in")
		must(t, os.Mkdir(dir, 0o755))
		if err := apply(t, b, dir); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
		if es, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(es) != 1 {
			t.Errorf("%s: beside the volume: %v, %v", name, es, err)
		}
		whole(t)
	}
}

// What was sent before an incremental stream is only copied from.
func TestParent(t *testing.T) {
	needRoot(t)
	b := append(begin(1), encode(1, cmdSnapshot, at("s"), av{attrUUID, own}, av{attrCtransid, 7}, av{attrCloneUUID, other}, av{attrCloneCtransid, 3})...)
	b = append(b, mkfile("new")...)
	b = append(b, encode(1, cmdClone, at("new"), av{attrOffset, 0}, av{attrCloneLen, 3}, av{attrCloneUUID, other}, av{attrClonePath, "old"}, av{attrCloneOffset, 1})...)
	b = append(b, encode(1, cmdEnd)...)
	dir, parent := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(parent, "old"), []byte("12345"), 0o600))
	root, err := os.Open(dir)
	must(t, err)
	defer root.Close()
	from, err := os.Open(parent)
	must(t, err)
	defer from.Close()
	s, err := Begin(bytes.NewReader(b))
	must(t, err)
	if !s.Incremental() || s.UUID != own || s.Parent != other || s.Ctransid != 7 || s.ParentCtransid != 3 {
		t.Errorf("%+v", s)
	}
	_, err = s.Apply(t.Context(), root, from)
	must(t, err)
	if got, err := os.ReadFile(filepath.Join(dir, "new")); err != nil || string(got) != "234" {
		t.Errorf("%q, %v", got, err)
	}
}

// Whatever is in a stream, it is refused or done, and nothing outside changes.
func FuzzApply(f *testing.F) {
	needRoot(f)
	outside, whole := outsideOf(f)
	for _, b := range hostileStreams(outside) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := filepath.Join(t.TempDir(), "in")
		must(t, os.Mkdir(dir, 0o755))
		_ = apply(t, resealed(b), dir) // either is right
		if es, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(es) != 1 {
			t.Errorf("beside the volume: %v, %v", es, err)
		}
		whole(t)
	})
}

// resealed has right checksums, so that a fuzzer gets further than those.
func resealed(b []byte) []byte {
	start := len(Magic) + 4
	if len(b) < start {
		return b
	}
	out := bytes.Clone(b[:start])
	for b = b[start:]; len(b) >= headerSize; {
		size := min(int(binary.LittleEndian.Uint32(b)), len(b)-headerSize)
		out = append(out, seal(binary.LittleEndian.Uint16(b[4:]), b[headerSize:headerSize+size])...)
		b = b[headerSize+size:]
	}
	return append(out, b...)
}
