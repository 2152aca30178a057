package btrfs

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests, from linux/btrfs.h.
const (
	dirNone, dirWrite, dirRead = 0, 1, 2

	iocResize         = dirWrite<<30 | 4096<<16 | 0x94<<8 | 3
	iocSync           = dirNone<<30 | 0x94<<8 | 8
	iocSubvolCreateV2 = dirWrite<<30 | 4096<<16 | 0x94<<8 | 24
	iocSnapCreateV2   = dirWrite<<30 | 4096<<16 | 0x94<<8 | 23
	iocSnapDestroyV2  = dirWrite<<30 | 4096<<16 | 0x94<<8 | 63
	iocTreeSearch     = (dirWrite|dirRead)<<30 | 4096<<16 | 0x94<<8 | 17
	iocInoLookup      = (dirWrite|dirRead)<<30 | 4096<<16 | 0x94<<8 | 18
	iocSubvolGetFlags = dirRead<<30 | 8<<16 | 0x94<<8 | 25
	iocSubvolSetFlags = dirWrite<<30 | 8<<16 | 0x94<<8 | 26
	iocScrub          = (dirWrite|dirRead)<<30 | 1024<<16 | 0x94<<8 | 27
	iocSetReceived    = (dirWrite|dirRead)<<30 | 200<<16 | 0x94<<8 | 37
	iocSend           = dirWrite<<30 | 72<<16 | 0x94<<8 | 38
	iocSubvolInfo     = dirRead<<30 | 504<<16 | 0x94<<8 | 60
	iocFSInfo         = dirRead<<30 | 1024<<16 | 0x94<<8 | 31
	iocQuotaCtl       = (dirWrite|dirRead)<<30 | 16<<16 | 0x94<<8 | 40
	iocQgroupLimit    = dirRead<<30 | 48<<16 | 0x94<<8 | 43
)

const (
	subvolReadOnly    = 1 << 1
	firstInode        = 256 // of every subvolume's root, and of nothing else
	quotaTree         = 8
	qgroupInfoKey     = 242
	enableSimpleQuota = 4
	limitRfer         = 1 << 0
	sendVersion       = 1 << 3 // the argument has one
)

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg))
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return e
		}
		return nil
	}
}

// volArgs is struct btrfs_ioctl_vol_args_v2.
type volArgs struct {
	fd      int64
	transid uint64
	flags   uint64
	unused  [4]uint64
	name    [4040]byte
}

// createSubvolume makes an empty one in the directory.
func createSubvolume(dir *os.File, name string) error {
	var a volArgs
	copy(a.name[:len(a.name)-1], name)
	return pathError("create subvolume", dir, name, ioctl(dir, iocSubvolCreateV2, unsafe.Pointer(&a)))
}

// snapshot makes a subvolume in the directory that has the state of src. It is
// on disk when snapshot returns.
func snapshot(src, dir *os.File, name string, readOnly bool) error {
	a := volArgs{fd: int64(src.Fd())} //nolint:gosec // a descriptor fits
	if readOnly {
		a.flags = subvolReadOnly
	}
	copy(a.name[:len(a.name)-1], name)
	return pathError("snapshot", dir, name, ioctl(dir, iocSnapCreateV2, unsafe.Pointer(&a)))
}

// destroy deletes a subvolume that has none in it.
func destroy(dir *os.File, name string) error {
	var a volArgs
	copy(a.name[:len(a.name)-1], name)
	return pathError("delete subvolume", dir, name, ioctl(dir, iocSnapDestroyV2, unsafe.Pointer(&a)))
}

// setReadOnly changes what can be done to a subvolume.
func setReadOnly(subvol *os.File, on bool) error {
	var flags uint64
	if err := ioctl(subvol, iocSubvolGetFlags, unsafe.Pointer(&flags)); err != nil {
		return pathError("read flags of subvolume", subvol, "", err)
	}
	if on == (flags&subvolReadOnly != 0) {
		return nil
	}
	return pathError("set flags of subvolume", subvol, "", ioctl(subvol, iocSubvolSetFlags, unsafe.Pointer(new(flags^subvolReadOnly))))
}

// syncPool has everything so far on disk.
func syncPool(f *os.File) error { return pathError("sync", f, "", ioctl(f, iocSync, nil)) }

// subvolumeID is the number of the subvolume that the directory is in.
func subvolumeID(f *os.File) (uint64, error) {
	a := struct {
		tree, object uint64
		name         [4080]byte
	}{object: firstInode}
	err := ioctl(f, iocInoLookup, unsafe.Pointer(&a))
	return a.tree, pathError("find number of subvolume", f, "", err)
}

// isSubvolume tells whether a directory is the root of one.
func isSubvolume(path string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return false, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino == firstInode && st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// sendTo has the kernel write a read-only subvolume as a stream; since is the
// number of another that the receiver has, or 0.
func sendTo(subvol *os.File, since uint64, to *os.File) error {
	type args struct {
		fd      int64
		sources uint64
		source  uintptr
		parent  uint64
		flags   uint64
		version uint32
		unused  [28]byte
	}
	sources := []uint64{since}
	var pin runtime.Pinner // the kernel is told where it is
	defer pin.Unpin()
	pin.Pin(&sources[0])
	var err error
	for version := uint32(2); version > 0; version-- { // 2: Linux 6.0
		a := args{fd: int64(to.Fd()), version: version} //nolint:gosec // a descriptor fits
		if version > 1 {
			a.flags = sendVersion
		}
		if since != 0 {
			a.sources, a.source, a.parent = 1, uintptr(unsafe.Pointer(&sources[0])), since
		}
		err = ioctl(subvol, iocSend, unsafe.Pointer(&a))
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EPROTO) { // nothing is written then
			break
		}
	}
	return pathError("send", subvol, "", err)
}

// identity are the UUIDs of a subvolume, and of what it was made of: by a
// snapshot, and by a stream.
type identity struct{ uuid, parent, received [16]byte }

func identify(subvol *os.File) (identity, error) {
	type timespec struct {
		sec  uint64
		nsec uint32
		_    uint32
	}
	var a struct {
		tree                                   uint64
		name                                   [256]byte
		parent, dir, generation, flags         uint64
		uuid, parentUUID, receivedUUID         [16]byte
		ctransid, otransid, stransid, rtransid uint64
		times                                  [4]timespec
		reserved                               [8]uint64
	}
	err := ioctl(subvol, iocSubvolInfo, unsafe.Pointer(&a))
	return identity{a.uuid, a.parentUUID, a.receivedUUID}, pathError("read about subvolume", subvol, "", err)
}

// setReceived notes what a subvolume was made of.
func setReceived(subvol *os.File, uuid [16]byte, transid uint64) error {
	a := struct {
		uuid               [16]byte
		stransid, rtransid uint64
		times              [4]uint64
		flags              uint64
		reserved           [16]uint64
	}{uuid: uuid, stransid: transid}
	return pathError("note what was received", subvol, "", ioctl(subvol, iocSetReceived, unsafe.Pointer(&a)))
}

// enableQuota turns simple quotas on. Where the kernel has none it tells so.
func enableQuota(f *os.File) (bool, error) {
	a := struct{ cmd, status uint64 }{cmd: enableSimpleQuota}
	err := ioctl(f, iocQuotaCtl, unsafe.Pointer(&a))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	return err == nil, pathError("turn on simple quotas", f, "", err)
}

// limit bounds what a subvolume may hold; 0 is no bound.
func limit(f *os.File, id, bytes uint64) error {
	a := struct{ id, flags, rfer, excl, rsvRfer, rsvExcl uint64 }{id: id, flags: limitRfer, rfer: bytes}
	if bytes == 0 {
		a.rfer = ^uint64(0)
	}
	return pathError("limit subvolume", f, "", ioctl(f, iocQgroupLimit, unsafe.Pointer(&a)))
}

// used reads what is accounted to a subvolume. errNoQuota where nothing is.
func used(f *os.File, id uint64) (int64, error) {
	type key struct {
		tree, minObject, maxObject, minOffset, maxOffset, minTrans, maxTrans uint64
		minType, maxType, items, unused                                      uint32
		reserved                                                             [4]uint64
	}
	a := struct {
		key key
		buf [4096 - 104]byte
	}{key: key{
		tree: quotaTree, minOffset: id, maxOffset: id, maxTrans: ^uint64(0),
		minType: qgroupInfoKey, maxType: qgroupInfoKey, items: 1,
	}}
	err := ioctl(f, iocTreeSearch, unsafe.Pointer(&a))
	if errors.Is(err, unix.ENOENT) || err == nil && a.key.items == 0 {
		return 0, errNoQuota
	}
	if err != nil {
		return 0, pathError("read size of subvolume", f, "", err)
	}
	const header, rfer = 32, 8
	return int64(binary.NativeEndian.Uint64(a.buf[header+rfer:])), nil //nolint:gosec // no volume is larger
}

var errNoQuota = errors.New("nothing is accounted here")

// growToDevice has the file system use all of its device.
func growToDevice(f *os.File) error {
	var a struct {
		fd   int64
		name [4088]byte
	}
	copy(a.name[:], "max")
	return pathError("grow", f, "", ioctl(f, iocResize, unsafe.Pointer(&a)))
}

// scrub reads all that is there and compares it with its checksums.
func scrub(f *os.File) (s Scrub, err error) {
	var info struct {
		maxID, devices uint64
		rest           [1008]byte
	}
	if err := ioctl(f, iocFSInfo, unsafe.Pointer(&info)); err != nil {
		return s, pathError("read about file system", f, "", err)
	}
	for id := uint64(1); id <= info.maxID; id++ {
		a := struct {
			dev, start, end, flags uint64
			p                      [15]uint64
			rest                   [109]uint64
		}{dev: id, end: ^uint64(0)}
		err := ioctl(f, iocScrub, unsafe.Pointer(&a))
		if errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return s, pathError("scrub", f, "", err)
		}
		s.Bytes += a.p[2] + a.p[3]
		s.Errors += a.p[4] + a.p[5] + a.p[6] + a.p[9] // read, checksum, verify, super
		s.Uncorrectable += a.p[11]
		s.Corrected += a.p[12]
	}
	return s, nil
}

// Scrub is what a check of a pool found.
type Scrub struct {
	Bytes         uint64 // read
	Errors        uint64
	Corrected     uint64
	Uncorrectable uint64
}

func pathError(op string, f *os.File, name string, err error) error {
	if err == nil {
		return nil
	}
	path := f.Name()
	if name != "" {
		path += "/" + name
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}
