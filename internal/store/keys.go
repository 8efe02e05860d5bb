package store

import (
	"net/url"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// namespace is before every key, so that an etcd cluster may serve others too. The number
// grows when the layout changes in a way that older programs misread.
const namespace = "/ichiro/v1/"

// Prefix is where the keys of a kind begin, below the name space. It ends with a slash.
//
//	spec/<kind>/<id>                        wishes of the API and the planners
//	wish/<host>/<kind>/<id>                 what control wishes of a host: instance, credentials, command, node, network, membership
//	status/<host>/<kind>/<id>               what the host has seen; only the host writes there
//	spec/resting/<subnet>/<ip>              since when an address is free that somebody had; PublicPool instead of a subnet
//	ipam/<subnet>/<ip>                      an address in use, with its interface; PublicPool or BlockPool instead of a subnet
//	token/<account>/<action>/<clienttoken>  the answer given to a ClientToken
//	name/<type>/<account>/<name>            a name in use, with its id
//	iam/<kind>/...                          users, roles, policies, sessions
//	text/<kind>/<id>                        what is long, never changes and is read seldom
//	host/<id>                               hosts as they describe themselves
//	cluster/<kind>/<id>                     settings and keys of the whole
//
// A host's own keys lie below wish/<host>/ and status/<host>/ alone: etcd's access control
// can confine it there (ConfineHost).
type Prefix string

// SpecPrefix is where the wishes of a kind begin.
func SpecPrefix(kind string) Prefix { return join("spec", kind) }

// WishPrefix is where control writes what it wishes of a host. Without a kind: all of it.
func WishPrefix(host cloud.HostID, kind ...string) Prefix {
	return join(append([]string{"wish", string(host)}, kind...)...)
}

// StatusPrefix is where a host writes what it has seen. Without a kind: all of it.
func StatusPrefix(host cloud.HostID, kind ...string) Prefix {
	return join(append([]string{"status", string(host)}, kind...)...)
}

// IPAMPrefix is where the addresses in use of a subnet begin.
func IPAMPrefix(subnet cloud.SubnetID) Prefix { return join("ipam", string(subnet)) }

// PublicPool is in the place of a subnet for public addresses, whose value is their allocation.
const PublicPool cloud.SubnetID = "public"

// BlockPool is in the place of a subnet for the IPv6 blocks of VPCs, whose value is their VPC.
const BlockPool cloud.SubnetID = "block"

// RestingPrefix is where the addresses of a subnet, or of PublicPool, are that were given back a while ago.
func RestingPrefix(subnet cloud.SubnetID) Prefix { return join("spec", "resting", string(subnet)) }

// TokenPrefix is where the ClientTokens of an action begin.
func TokenPrefix(account cloud.AccountID, action string) Prefix {
	return join("token", string(account), action)
}

// NamePrefix is where the names in use of a type, such as key pairs, begin.
func NamePrefix(typ string, account cloud.AccountID) Prefix {
	return join("name", typ, string(account))
}

// IAMPrefix is where a kind of IAM's begins, optionally below an owner.
func IAMPrefix(kind string, owner ...string) Prefix {
	return join(append([]string{"iam", kind}, owner...)...)
}

// TextPrefix is where the texts of a kind begin, which no mirror holds.
func TextPrefix(kind string) Prefix { return join("text", kind) }

// HostPrefix is where the hosts' descriptions of themselves begin.
func HostPrefix() Prefix { return join("host") }

// ClusterPrefix is where the settings and keys of the whole begin.
func ClusterPrefix(kind string) Prefix { return join("cluster", kind) }

// All is every key of one of the families named above: All("spec"), All("status").
func All(family string) Prefix { return join(family) }

// join builds a prefix of parts, none of which can reach into another's place.
func join(parts ...string) Prefix {
	var b strings.Builder
	for _, p := range parts {
		if p == "" {
			panic("store: a key with an empty part")
		}
		b.WriteString(url.PathEscape(p))
		b.WriteByte('/')
	}
	return Prefix(b.String())
}

// HostOf returns the host of a key below wish/ or status/, or "" for any other.
func HostOf(key string) cloud.HostID {
	for _, family := range []string{"wish/", "status/"} {
		if rest, ok := strings.CutPrefix(key, family); ok {
			host, _, _ := strings.Cut(rest, "/")
			if h, err := url.PathUnescape(host); err == nil {
				return cloud.HostID(h)
			}
		}
	}
	return ""
}
