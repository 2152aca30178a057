package network

import (
	"crypto/sha256"
	"net/netip"
)

// dockerPools are the spaces that Docker cuts its networks from when it isn't
// told otherwise.
func dockerPools() []Pool {
	return []Pool{
		{netip.MustParsePrefix("172.17.0.0/16"), 16},
		{netip.MustParsePrefix("172.18.0.0/16"), 16},
		{netip.MustParsePrefix("172.19.0.0/16"), 16},
		{netip.MustParsePrefix("172.20.0.0/14"), 16},
		{netip.MustParsePrefix("172.24.0.0/14"), 16},
		{netip.MustParsePrefix("172.28.0.0/14"), 16},
		{netip.MustParsePrefix("192.168.0.0/16"), 20},
	}
}

// ulaPool is a unique local IPv6 space (RFC 4193) that depends on seed alone.
func ulaPool(seed string) Pool {
	sum := sha256.Sum256([]byte("holdfast ula " + seed))
	var a [16]byte
	a[0] = 0xfd
	copy(a[1:6], sum[:5])
	return Pool{Base: netip.PrefixFrom(netip.AddrFrom16(a), 48), Size: 64}
}
