package provision

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// keys gives the instance's keys and the config's to the default user. Root's copies of them only say who that is.
func (r *run) keys(context.Context) {
	list := append(append([]string{}, r.in.Keys...), r.plan.Keys...)
	if len(list) == 0 {
		return
	}
	user := r.defaultUser()
	if user != "" {
		r.try(r.authorize(user, list, ""))
	}
	switch {
	case user == "root":
	case !r.plan.DisableRoot:
		r.try(r.authorize("root", list, ""))
	default:
		say := "no user here has this key"
		if user != "" {
			say = "log in as " + user + ", who has this key; root has not"
		}
		r.try(r.authorize("root", list, fmt.Sprintf(`no-port-forwarding,no-agent-forwarding,no-X11-forwarding,command="echo '%s'; sleep 10; exit 142" `, say)))
	}
}

// authorize lets keys in as a user: each once, beside those that are there. An option before a key that is there gives
// way. What is in a home is its owner's, who may have laid links: none is followed out of it.
func (r *run) authorize(user string, list []string, options string) error {
	f := r.entry("passwd", user)
	if f == nil {
		return fmt.Errorf("authorize keys: user %s is not there", user)
	}
	uid, gid, err := r.ids(f[2], f[3])
	if err != nil {
		return err
	}
	dir := r.path(f[5])
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err == nil {
		if err := r.chown(dir, uid, gid); err != nil {
			return fmt.Errorf("authorize keys for %s: %w", user, err)
		}
	} else if !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("authorize keys for %s: %w", user, err)
	}
	home, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("authorize keys for %s: %w", user, err)
	}
	defer home.Close()
	if err := home.Mkdir(".ssh", 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("authorize keys for %s: %w", user, err)
	}
	const file = ".ssh/authorized_keys"
	have, err := home.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("authorize keys for %s: %w", user, err)
	}
	if err := home.WriteFile(file+".tmp", []byte(joined(string(have), list, options)), 0o600); err != nil {
		return fmt.Errorf("authorize keys for %s: %w", user, err)
	}
	for _, name := range []string{".ssh", file + ".tmp"} {
		if err := r.Chown(home, name, uid, gid); err != nil {
			return fmt.Errorf("authorize keys for %s: %w", user, err)
		}
	}
	if err := home.Rename(file+".tmp", file); err != nil {
		return fmt.Errorf("authorize keys for %s: %w", user, err)
	}
	return nil
}

// joined is a file of keys and more of them.
func joined(have string, list []string, options string) string {
	var lines []string
	for line := range strings.Lines(have) {
		line = strings.TrimSpace(line)
		again := false
		for _, key := range list {
			again = again || material(key) != "" && material(key) == material(line)
		}
		if line != "" && !again {
			lines = append(lines, line)
		}
	}
	seen := map[string]bool{}
	for _, key := range list {
		if key = strings.TrimSpace(key); key != "" && !seen[key] {
			seen[key] = true
			lines = append(lines, options+key)
		}
	}
	return strings.Join(lines, "\n") + "\n"
}

// material is the key proper of a line: what follows the name of its kind.
func material(line string) string {
	f := strings.Fields(line)
	for i := 0; i+1 < len(f); i++ {
		for _, kind := range []string{"ssh-", "ecdsa-", "sk-"} {
			if strings.HasPrefix(f[i], kind) {
				return f[i+1]
			}
		}
	}
	return ""
}
