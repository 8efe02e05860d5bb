package dhcp

import "encoding/binary"

// Message types, option 53.
const (
	typeDiscover = 1
	typeOffer    = 2
	typeRequest  = 3
	typeDecline  = 4
	typeAck      = 5
	typeNak      = 6
	typeRelease  = 7
	typeInform   = 8
)

// Options, RFC 2132 unless noted.
const (
	optPad           = 0
	optMask          = 1
	optRouter        = 3
	optResolvers     = 6
	optHostname      = 12
	optDomain        = 15
	optMTU           = 26
	optBroadcast     = 28
	optTimeServers   = 42
	optNetBIOS       = 44
	optNetBIOSNode   = 46
	optWish          = 50 // the address that is asked for
	optLease         = 51
	optOverload      = 52
	optType          = 53
	optServer        = 54
	optAsked         = 55 // the options that are asked for
	optMaxSize       = 57
	optRenew         = 58
	optRebind        = 59
	optClientID      = 61
	optRapidCommit   = 80  // RFC 4039
	optRelayInfo     = 82  // RFC 3046
	optAutoConfigure = 116 // RFC 2563
	optSearch        = 119 // RFC 3397
	optRoutes        = 121 // RFC 3442
	optRoutesOld     = 249 // what Windows called 121 before there was an RFC
	optEnd           = 255
)

// Layout of a message, RFC 2131 figure 1.
const (
	offXid     = 4
	offFlags   = 10
	offCiaddr  = 12
	offYiaddr  = 16
	offGiaddr  = 24
	offChaddr  = 28
	offSname   = 44
	offFile    = 108
	offCookie  = 236
	offOptions = 240
	minimum    = 300 // BOOTP's size, which old clients insist on
)

var cookie = [4]byte{99, 130, 83, 99}

// codes is a set of options.
type codes [4]uint64

func (c *codes) add(code byte)      { c[code>>6] |= 1 << (code & 63) }
func (c *codes) has(code byte) bool { return c[code>>6]&(1<<(code&63)) != 0 }

// request is what we read of a message. Its slices lie in the message, or in scratch where an option came in parts; they
// are good until the next parse.
type request struct {
	op             byte
	xid            [4]byte
	flags          [2]byte
	ciaddr, giaddr [4]byte
	mac            [6]byte

	kind     byte // 0: not said
	wish     [4]byte
	server   [4]byte
	maxSize  int   // 0: not said
	asked    codes // good if listed
	listed   bool
	clientID []byte
	relay    []byte // option 82
	rapid    bool
	auto     bool // asks whether it may configure itself

	seen    codes // options that were there
	scratch []byte
	parts   [8]part
}

// part is an option's value as far as it is known.
type part struct {
	code  byte
	value []byte
}

// wanted are the options whose value matters; at most len(request.parts).
var wanted = func() (c codes) {
	for _, code := range []byte{optType, optWish, optServer, optMaxSize, optAsked, optClientID, optRelayInfo, optOverload} {
		c.add(code)
	}
	return c
}()

// parse reads a message, and reports whether it is one of a guest on Ethernet.
func (r *request) parse(b []byte) bool {
	*r = request{scratch: r.scratch[:0]}
	if len(b) < offOptions || [4]byte(b[offCookie:]) != cookie || b[1] != 1 || b[2] != 6 {
		return false
	}
	r.op = b[0]
	r.xid, r.flags = [4]byte(b[offXid:]), [2]byte(b[offFlags:])
	r.ciaddr, r.giaddr, r.mac = [4]byte(b[offCiaddr:]), [4]byte(b[offGiaddr:]), [6]byte(b[offChaddr:])
	if !r.options(b[offOptions:]) {
		return false
	}
	if r.seen.has(optOverload) { // sname and file have options too; in this order (RFC 3396 section 5)
		v := r.value(optOverload)
		if len(v) != 1 || v[0] == 0 || v[0] > 3 {
			return false
		}
		if v[0]&1 != 0 && !r.options(b[offFile:offCookie]) || v[0]&2 != 0 && !r.options(b[offSname:offFile]) {
			return false
		}
	}
	return r.read()
}

// options walks over one area of options. A missing end is forgiven, an option that does not fit is not.
func (r *request) options(b []byte) bool {
	for len(b) > 0 {
		code := b[0]
		if code == optEnd {
			return true
		}
		if code == optPad {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return false
		}
		if wanted.has(code) {
			r.collect(code, b[2:2+int(b[1])])
		}
		r.seen.add(code)
		b = b[2+int(b[1]):]
	}
	return true
}

// collect joins the parts of an option that comes more than once (RFC 3396).
func (r *request) collect(code byte, value []byte) {
	for i := range r.parts {
		p := &r.parts[i]
		if p.code == 0 {
			p.code, p.value = code, value
			return
		}
		if p.code == code {
			start := len(r.scratch)
			r.scratch = append(append(r.scratch, p.value...), value...)
			p.value = r.scratch[start:len(r.scratch):len(r.scratch)]
			return
		}
	}
}

func (r *request) value(code byte) []byte {
	for i := range r.parts {
		if r.parts[i].code == code {
			return r.parts[i].value
		}
	}
	return nil
}

// read takes the values out of the parts, and reports whether each has the size that it must have.
func (r *request) read() bool {
	for i := range r.parts {
		p := &r.parts[i]
		switch p.code {
		case optType:
			if len(p.value) != 1 {
				return false
			}
			r.kind = p.value[0]
		case optWish:
			if len(p.value) != 4 {
				return false
			}
			r.wish = [4]byte(p.value)
		case optServer:
			if len(p.value) != 4 {
				return false
			}
			r.server = [4]byte(p.value)
		case optMaxSize:
			if len(p.value) != 2 {
				return false
			}
			r.maxSize = int(binary.BigEndian.Uint16(p.value))
		case optAsked:
			r.listed = true
			for _, code := range p.value {
				r.asked.add(code)
			}
		case optClientID:
			r.clientID = p.value
		case optRelayInfo:
			r.relay = p.value
		}
	}
	r.rapid = r.seen.has(optRapidCommit)
	r.auto = r.seen.has(optAutoConfigure)
	return true
}
