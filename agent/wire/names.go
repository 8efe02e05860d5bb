package wire

import "strings"

// Names writes domain names as DNS and DHCP do, uncompressed (RFC 1035 section 3.1). What is no name is left out.
func Names(domains []string) (b []byte) {
next:
	for _, d := range domains {
		var n []byte
		for label := range strings.SplitSeq(strings.TrimSuffix(d, "."), ".") {
			if len(label) == 0 || len(label) > 63 {
				continue next
			}
			n = append(append(n, byte(len(label))), label...)
		}
		if len(n) < 255 {
			b = append(append(b, n...), 0)
		}
	}
	return b
}
