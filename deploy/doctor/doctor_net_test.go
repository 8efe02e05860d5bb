//go:build net

package doctor

import (
	"fmt"
	"os/exec"
	"testing"
)

// A chain that drops what it does not know is found by its name, whoever made it; ours, which drops by rules, is not.
func TestForeignForwardChainsAreFound(t *testing.T) {
	for _, c := range []struct{ rules, want string }{
		{"", "nobody drops it"},
		{"add table ip filter; add chain ip filter INPUT { type filter hook input priority 0; policy drop; }", "nobody drops it"},
		{"add table inet ic123456; add chain inet ic123456 forward { type filter hook forward priority 0; policy accept; }", "nobody drops it"},
		{"add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }", "dropped unless ip filter FORWARD accepts it"},
	} {
		err := inNamespace(func() error {
			if out, err := exec.Command("nft", c.rules).CombinedOutput(); c.rules != "" && err != nil {
				return fmt.Errorf("%v: %s", err, out)
			}
			if _, found, _ := forwarding(Where{}); found != c.want {
				return fmt.Errorf("found %q, want %q", found, c.want)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", c.rules, err)
		}
	}
}
