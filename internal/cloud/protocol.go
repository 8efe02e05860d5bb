package cloud

import (
	"strconv"
	"strings"
)

// The protocols that rules can look into.
const (
	ProtocolAll    = -1
	ProtocolICMP   = 1
	ProtocolTCP    = 6
	ProtocolUDP    = 17
	ProtocolICMPv6 = 58
)

var protocolNames = map[int]string{ProtocolICMP: "icmp", ProtocolTCP: "tcp", ProtocolUDP: "udp", ProtocolICMPv6: "icmpv6"}

// ParseProtocol reads a protocol: one of the four names that EC2 knows, a number from 0 to 255, or -1 for all.
func ParseProtocol(text string) (int, error) {
	for n, name := range protocolNames {
		if strings.EqualFold(text, name) {
			return n, nil
		}
	}
	if text == "-1" {
		return ProtocolAll, nil
	}
	n, err := strconv.ParseUint(text, 10, 8)
	if err != nil {
		return 0, Errorf("InvalidParameterValue", "%.20q is not a protocol: use tcp, udp, icmp, icmpv6, a number from 0 to 255, or -1 for all", text)
	}
	return int(n), nil
}

// ProtocolName returns the name of one of the four, and the number of any other.
func ProtocolName(n int) string {
	if name, ok := protocolNames[n]; ok {
		return name
	}
	return strconv.Itoa(n)
}

// checkPorts refuses what is no range of ports.
func checkPorts(from, to int64) error {
	for _, p := range []int64{from, to} {
		if p < 0 || p > 65535 {
			return Errorf("InvalidParameterValue", "%d is not a port: ports are 0 to 65535, and the range of both means all of them", p)
		}
	}
	if from > to {
		return Errorf("InvalidParameterValue", "Ports %d to %d are the wrong way round: the first must not be above the last", from, to)
	}
	return nil
}

// checkTypeCode refuses what is no ICMP type and code. -1 is all types, or all codes of a type.
func checkTypeCode(typ, code int64) error {
	switch {
	case typ < -1 || typ > 255:
		return Errorf("InvalidParameterValue", "%d is not an ICMP type: types are 0 to 255, and -1 means all", typ)
	case code < -1 || code > 255:
		return Errorf("InvalidParameterValue", "%d is not an ICMP code: codes are 0 to 255, and -1 means all", code)
	case typ == -1 && code != -1:
		return Errorf("InvalidParameterValue", "ICMP code %d has no type: with all types (-1) the code must be -1 too", code)
	}
	return nil
}
