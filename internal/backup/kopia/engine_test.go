package kopia

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"holdfast.dev/holdfast/internal/backup"
	"holdfast.dev/holdfast/internal/backup/tree"
	"holdfast.dev/holdfast/internal/volume/archive"
)

func unpackTar(ctx context.Context, from io.Reader, dir string) error {
	_, err := archive.Extract(ctx, from, dir)
	return err
}

func engine() *Engine { return &Engine{Unpack: unpackTar, Now: time.Now} }

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: owners are restored")
	}
}

// filesAt is access to a repository in a directory.
func filesAt(t *testing.T, dir string) backup.Access {
	t.Helper()
	p, err := backup.ParsePlace(dir, nil, []string{backup.SecretPassword})
	if err != nil {
		t.Fatal(err)
	}
	return backup.Access{Name: "repo", Place: p, Secrets: map[string]string{backup.SecretPassword: "correct horse"}, Dir: t.TempDir(), Host: "node1"}
}

func prepared(t *testing.T, e *Engine, a backup.Access) backup.Access {
	t.Helper()
	if made, err := e.Prepare(t.Context(), a); err != nil || !made {
		t.Fatalf("Prepare: %v, %v", made, err)
	}
	return a
}

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	old(t, name)
}

// old gives a file a time that tells something: one that is younger than two seconds
// is read again.
func old(t *testing.T, name string) {
	t.Helper()
	at := time.Now().Add(-time.Hour)
	if err := os.Chtimes(name, at, at); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// noise is data that neither compresses nor repeats.
func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	x := seed*2654435769 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x >> 32)
	}
	return b
}

// sample is a tree with one of everything.
func sample(t *testing.T, dir string) {
	t.Helper()
	write(t, filepath.Join(dir, "plain"), []byte("hello\n"))
	write(t, filepath.Join(dir, "empty"), nil)
	write(t, filepath.Join(dir, "a/deep/er/file"), noise(100<<10, 1))
	write(t, filepath.Join(dir, "a/large"), noise(9<<20, 2))
	write(t, filepath.Join(dir, "a.b/x"), []byte("a.b sorts apart from a/"))
	write(t, filepath.Join(dir, "bytes-\xff%41"), []byte("no UTF-8"))
	must(t, os.Chown(filepath.Join(dir, "plain"), 1234, 4321))
	must(t, os.Chmod(filepath.Join(dir, "plain"), 0o640|fs.ModeSetgid))
	must(t, os.Link(filepath.Join(dir, "plain"), filepath.Join(dir, "zz-same")))
	must(t, os.Symlink("../outside\xfe", filepath.Join(dir, "a/link")))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must(t, unix.Setxattr(filepath.Join(dir, "plain"), "user.mark", []byte{0, 1, 255}, 0))
	f, err := os.Create(filepath.Join(dir, "holes"))
	must(t, err)
	_, err = f.WriteAt([]byte("in the middle"), 5<<20)
	must(t, errors.Join(err, f.Truncate(16<<20), f.Close()))
	old(t, filepath.Join(dir, "holes"))
	must(t, os.Mkdir(filepath.Join(dir, "empty-dir"), 0o700))
	at := time.Unix(1_000_000_000, 123456789)
	must(t, os.Chtimes(filepath.Join(dir, "a"), at, at))
}

func save(t *testing.T, e *Engine, a backup.Access, dir string) backup.Backup {
	t.Helper()
	b, err := e.Save(t.Context(), a, backup.SaveRequest{Dir: dir, Stable: true, Backup: backup.Backup{Volume: "data", Moment: time.Now().UTC(), Consistency: "clean"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func verify(t *testing.T, e *Engine, a backup.Access, id string) backup.Verification {
	t.Helper()
	v, err := e.Verify(t.Context(), a, id, t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestBackupsAreIncrementalAndRestoreWhole(t *testing.T) {
	requireRoot(t)
	e, src := engine(), t.TempDir()
	sample(t, src)
	a := prepared(t, e, filesAt(t, filepath.Join(t.TempDir(), "repo")))

	first := save(t, e, a, src)
	if first.Totals.Files != 7 || first.Totals.Read != 7 || first.Stored < 9<<20 {
		t.Errorf("first backup: %+v", first)
	}
	second := save(t, e, a, src)
	if second.Totals.Read != 1 { // the empty one
		t.Errorf("nothing changed, and yet: %+v", second.Totals)
	}
	if second.Stored > 64<<10 {
		t.Errorf("nothing changed, and %d bytes were stored", second.Stored)
	}
	write(t, filepath.Join(src, "plain"), []byte("HELLO\n"))
	large, err := os.OpenFile(filepath.Join(src, "a/large"), os.O_WRONLY, 0)
	must(t, err)
	_, err = large.WriteAt(noise(1000, 9), 4<<20)
	must(t, errors.Join(err, large.Close()))
	old(t, filepath.Join(src, "a/large"))
	third := save(t, e, a, src)
	if third.Totals.Read != 3 || third.Stored > 7<<20 {
		t.Errorf("after two changes: %+v", third)
	}

	all, err := e.List(t.Context(), a)
	must(t, err)
	if len(all) != 3 || all[0].ID != first.ID || all[2].ID != third.ID || all[0].Verified != nil {
		t.Fatalf("list: %+v", all)
	}
	if v := verify(t, e, a, third.ID); !v.OK() || v.Totals.Files != 7 {
		t.Errorf("verification: %+v", v)
	}
	all, err = e.List(t.Context(), a)
	must(t, err)
	if all[0].Verified != nil || !all[2].Verified.OK() {
		t.Errorf("verified: %+v, %+v", all[0].Verified, all[2].Verified)
	}

	// The first one has the old content.
	dst := t.TempDir()
	got, err := e.Restore(t.Context(), a, first.ID, dst, false, nil)
	must(t, err)
	if got.Totals.Files != 7 {
		t.Errorf("restored: %+v", got)
	}
	b, err := os.ReadFile(filepath.Join(dst, "zz-same"))
	if err != nil || string(b) != "hello\n" {
		t.Errorf("restored content: %q, %v", b, err)
	}
	must(t, e.Remove(t.Context(), a, []string{first.ID, "0123456789abcdef0123456789abcdef"}))
	if _, err := e.Restore(t.Context(), a, first.ID, t.TempDir(), false, nil); !errdefs.IsNotFound(err) {
		t.Errorf("a removed backup: %v", err)
	}
	must(t, e.Maintain(t.Context(), a))
	if v := verify(t, e, a, second.ID); !v.OK() {
		t.Errorf("after a removal and maintenance: %+v", v)
	}
}

// Every way in which a tree can differ must be noticed, or verify proves nothing.
func TestComparisonNoticesEveryKindOfChange(t *testing.T) {
	requireRoot(t)
	e, src := engine(), t.TempDir()
	sample(t, src)
	a := prepared(t, e, filesAt(t, filepath.Join(t.TempDir(), "repo")))
	b := save(t, e, a, src)
	for what, change := range map[string]func(dir string) error{
		"its content": func(d string) error {
			return keepTime(d, "a/deep/er/file", func(n string) error { return os.WriteFile(n, noise(100<<10, 7), 0o644) })
		},
		"has 3 bytes": func(d string) error {
			return keepTime(d, "a/deep/er/file", func(n string) error { return os.WriteFile(n, []byte("abc"), 0o644) })
		},
		"its owner":               func(d string) error { return os.Chown(filepath.Join(d, "fifo"), 7, 7) },
		"its mode":                func(d string) error { return os.Chmod(filepath.Join(d, "a/large"), 0o600) },
		"its time":                func(d string) error { return os.Chtimes(filepath.Join(d, "empty"), time.Now(), time.Now()) },
		"its extended attributes": func(d string) error { return unix.Setxattr(filepath.Join(d, "a/large"), "user.new", []byte("1"), 0) },
		"points to": func(d string) error {
			return keepTime(d, "a", func(n string) error { return errors.Join(os.Remove(n+"/link"), os.Symlink("x", n+"/link")) })
		},
		"is missing": func(d string) error { return keepTime(d, ".", func(n string) error { return os.Remove(n + "/fifo") }) },
		"is not in the backup": func(d string) error {
			return keepTime(d, ".", func(n string) error { return os.WriteFile(n+"/new", nil, 0o644) })
		},
		"of kind f, not h": func(d string) error {
			return keepTime(d, ".", func(n string) error {
				return errors.Join(os.Remove(n+"/zz-same"), os.WriteFile(n+"/zz-same", []byte("hello\n"), 0o644))
			})
		},
		"bytes of room": func(d string) error { return keepTime(d, "holes", func(n string) error { return fill(n) }) },
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := e.Restore(t.Context(), a, b.ID, dir, false, nil); err != nil {
				t.Fatal(err)
			}
			check := func() []tree.Difference {
				rep, err := e.open(t.Context(), a)
				must(t, err)
				defer rep.Close(context.Background())
				k, err := find(t.Context(), rep, b.ID)
				must(t, err)
				index := parts(t.Context(), rep, k.Parts)
				defer index.Close()
				found, _, err := tree.Compare(t.Context(), dir, index, nil)
				must(t, err)
				return found
			}
			if found := check(); len(found) != 0 {
				t.Fatalf("a fresh restore differs: %v", found)
			}
			must(t, change(dir))
			if found := check(); !slices.ContainsFunc(found, func(d tree.Difference) bool { return strings.Contains(d.What, what) }) {
				t.Errorf("found only %v", found)
			}
		})
	}
}

func keepTime(dir, name string, do func(string) error) error {
	name = filepath.Join(dir, name)
	st, err := os.Stat(name)
	if err != nil {
		return err
	}
	return errors.Join(do(name), os.Chtimes(name, time.Time{}, st.ModTime()))
}

// fill writes the zeros that a hole stands for.
func fill(name string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// packs are the files of a repository that hold contents, largest first.
func packs(t *testing.T, repo string) []string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(repo, func(p string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(strings.TrimPrefix(p, repo), "/p") && !d.IsDir() {
			out = append(out, p)
		}
		return err
	}))
	return out
}

func flip(t *testing.T, name string, at int64) {
	t.Helper()
	must(t, os.Chmod(name, 0o600))
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	must(t, err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	must(t, err)
	b[0] ^= 0x40
	_, err = f.WriteAt(b, at)
	must(t, errors.Join(err, f.Close()))
}

func TestABrokenBlobIsFoundNamedAndCostsOnlyWhatItHeld(t *testing.T) {
	requireRoot(t)
	e, src := engine(), t.TempDir()
	repo := filepath.Join(t.TempDir(), "repo")
	a := prepared(t, e, filesAt(t, repo))
	for i := range 5 {
		write(t, filepath.Join(src, fmt.Sprintf("one-%d", i)), noise(200<<10, uint64(10+i)))
	}
	write(t, filepath.Join(src, "sub/victim"), noise(300<<10, 99))
	must(t, os.Link(filepath.Join(src, "sub/victim"), filepath.Join(src, "sub/zz-other-name")))
	b := save(t, e, a, src)
	if v := verify(t, e, a, b.ID); !v.OK() {
		t.Fatalf("before: %+v", v)
	}

	// Break the piece that holds the victim's content.
	rep, err := e.open(t.Context(), a)
	must(t, err)
	k, err := find(t.Context(), rep, b.ID)
	must(t, err)
	index := parts(t.Context(), rep, k.Parts)
	var pack string
	var offset int64
	for {
		f, err := index.Next()
		must(t, err)
		if f.Path == "sub/victim" {
			ids, err := pieces(t.Context(), rep, f.Object)
			must(t, err)
			info, err := rep.ContentInfo(t.Context(), ids[0])
			must(t, err)
			pack, offset = string(info.PackBlobID), int64(info.PackOffset)+1000
			break
		}
	}
	must(t, rep.Close(t.Context()))
	i := slices.IndexFunc(packs(t, repo), func(p string) bool {
		return strings.HasSuffix(strings.ReplaceAll(strings.TrimPrefix(p, repo), "/", ""), pack+".f")
	})
	if i < 0 {
		t.Fatalf("no file of pack %s among %v", pack, packs(t, repo))
	}
	flip(t, packs(t, repo)[i], offset)

	v := verify(t, e, a, b.ID)
	var names []string
	for _, p := range v.Problems {
		names = append(names, p.Path)
	}
	if !slices.Equal(names, []string{"sub/victim", "sub/zz-other-name"}) || len(v.Broken) != 1 {
		t.Fatalf("problems: %+v, broken: %v", v.Problems, v.Broken)
	}
	all, err := e.List(t.Context(), a)
	must(t, err)
	if all[0].Verified.OK() {
		t.Error("the list does not say that the backup is damaged")
	}

	// A restore is refused and names the file; a partial one brings the rest.
	if _, err := e.Restore(t.Context(), a, b.ID, t.TempDir(), false, nil); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "sub/victim") {
		t.Errorf("restore: %v", err)
	}
	dst := t.TempDir()
	got, err := e.Restore(t.Context(), a, b.ID, dst, true, nil)
	must(t, err)
	if len(got.Damaged) != 2 {
		t.Errorf("left out: %v", got.Damaged)
	}
	for i := range 5 {
		have, err := os.ReadFile(filepath.Join(dst, fmt.Sprintf("one-%d", i)))
		if err != nil || !bytes.Equal(have, noise(200<<10, uint64(10+i))) {
			t.Errorf("file %d is not whole: %v", i, err)
		}
	}
	for _, gone := range []string{"sub/victim", "sub/zz-other-name"} {
		if _, err := os.Lstat(filepath.Join(dst, gone)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there without its content: %v", gone, err)
		}
	}

	// The volume still has it: the next backup is whole, and heals the first.
	next := save(t, e, a, src)
	if next.Totals.Read != 1 {
		t.Errorf("only the broken file was to be read: %+v", next.Totals)
	}
	for _, id := range []string{next.ID, b.ID} {
		if v := verify(t, e, a, id); !v.OK() {
			t.Errorf("after the next backup: %+v", v)
		}
	}
}

func TestACutOffSaveGoesOnFromWhereItWas(t *testing.T) {
	requireRoot(t)
	e, src := engine(), t.TempDir()
	e.Workers = 1
	e.CheckpointEvery = time.Nanosecond // after each file
	a := prepared(t, e, filesAt(t, filepath.Join(t.TempDir(), "repo")))
	for i := range 10 {
		write(t, filepath.Join(src, fmt.Sprintf("f%d", i)), noise(50<<10, uint64(i)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := e.Save(ctx, a, backup.SaveRequest{Dir: src, Stable: true, Backup: backup.Backup{Volume: "data", Moment: time.Now().UTC()}}, func(t tree.Totals) {
		if t.Files == 6 {
			cancel()
		}
	})
	if err == nil {
		t.Fatal("the save was not cut off")
	}
	if all, err := e.List(t.Context(), a); err != nil || len(all) != 0 {
		t.Fatalf("a cut-off backup is listed: %v, %v", all, err)
	}
	b := save(t, e, a, src)
	if b.Totals.Read > 6 || b.Totals.Files != 10 {
		t.Errorf("it began anew: %+v", b.Totals)
	}
	if v := verify(t, e, a, b.ID); !v.OK() {
		t.Errorf("verification: %+v", v)
	}
}

func TestPlainWordsForWhatIsWrongWithARepository(t *testing.T) {
	requireRoot(t)
	e := engine()
	dir := filepath.Join(t.TempDir(), "repo")
	a := prepared(t, e, filesAt(t, dir))
	if made, err := e.Prepare(t.Context(), a); err != nil || made {
		t.Errorf("one that is there: %v, %v", made, err)
	}
	wrong := a
	wrong.Secrets = map[string]string{backup.SecretPassword: "not that one"}
	wrong.Dir = t.TempDir()
	if _, err := e.Prepare(t.Context(), wrong); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "password") || strings.Contains(err.Error(), "not that one") {
		t.Errorf("wrong password: %v", err)
	}
	must(t, os.Rename(dir, dir+"-away"))
	if _, err := e.List(t.Context(), a); !errdefs.IsUnavailable(err) && !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), dir) {
		t.Errorf("repository gone: %v", err)
	}
}

func TestAFullRepositoryFailsPlainlyAndGoesOnLater(t *testing.T) {
	requireRoot(t)
	e, src, disk := engine(), t.TempDir(), t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=6m"); err != nil {
		t.Skipf("needs mount(2): %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(disk, 0)) })
	a := prepared(t, e, filesAt(t, filepath.Join(disk, "repo")))
	write(t, filepath.Join(src, "small"), noise(1<<20, 1))
	small := save(t, e, a, src)
	write(t, filepath.Join(src, "too-large"), noise(12<<20, 2))
	_, err := e.Save(t.Context(), a, backup.SaveRequest{Dir: src, Backup: backup.Backup{Volume: "data", Moment: time.Now().UTC()}}, nil)
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "full") {
		t.Errorf("on a full disk: %v", err)
	}
	if v, err := e.Verify(t.Context(), a, small.ID, t.TempDir(), nil); err != nil && !errdefs.IsResourceExhausted(err) || !v.OK() {
		t.Errorf("the backup before it: %+v, %v", v, err)
	}
	must(t, unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, "size=64m"))
	b := save(t, e, a, src)
	if v := verify(t, e, a, b.ID); !v.OK() {
		t.Errorf("with room again: %+v", v)
	}
}
