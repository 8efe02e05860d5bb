package provision

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/ichiro-metal/ichiro/internal/pattern"
)

const (
	// apiEndpoint is where a guest reaches the API and the object store.
	apiEndpoint = "http://169.254.169.254:8773"
	// awsModule teaches a CLI from before 2.13 what endpoint_url is; packaging/guest has it.
	awsModule = "/usr/share/ichiro/awscli/ichiro_endpoint.py"
)

// awsConfig tells AWS's clients where the API is and in which region: for root and for who was made here. What somebody has
// written stays. Credentials they find by themselves, in the metadata.
func (r *run) awsConfig(context.Context) {
	if r.in.Region == "" {
		return
	}
	text := fmt.Sprintf("[default]\nregion = %s\nendpoint_url = %s\n", r.in.Region, apiEndpoint)
	if r.oldCLI() {
		if _, err := os.Stat(r.path(awsModule)); err != nil {
			r.say("WARNING", "the AWS CLI here is from before 2.13 and knows no endpoint_url: put %s there", awsModule)
		} else {
			text += fmt.Sprintf("\n[plugins]\ncli_legacy_plugin_path = %s\nendpoint = ichiro_endpoint\n", filepath.Dir(awsModule))
		}
	}
	names := []string{"root", r.defaultUser()}
	for _, u := range r.plan.Users {
		names = append(names, u.Name)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if f := r.entry("passwd", name); f != nil {
			if err := r.configure(f, text); err != nil {
				r.say("WARNING", "the AWS configuration of %s is not written: %v", name, err)
			}
		}
	}
}

// configure writes the file in the home of a line of passwd, if there is a home and no such file.
func (r *run) configure(f []string, text string) error {
	home, err := os.OpenRoot(r.path(f[5]))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer home.Close()
	uid, gid, err := r.ids(f[2], f[3])
	if err != nil {
		return err
	}
	if err := home.Mkdir(".aws", 0o755); err == nil {
		if err := r.Chown(home, ".aws", uid, gid); err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrExist) {
		return err
	}
	// It appears whole or not at all: who is killed in between would leave an empty one, which stays.
	const name, temp = ".aws/config", ".aws/.config.new"
	if _, err := home.Lstat(name); err == nil {
		return nil
	}
	if err := home.RemoveAll(temp); err != nil {
		return err
	}
	file, err := home.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := r.Chown(home, temp, uid, gid); err != nil {
		return err
	}
	return home.Rename(temp, name)
}

var awsVersion = pattern.New(`(?m)^__version__ = ['"]2\.(\d+)\.`)

// oldCLI tells whether the distribution's AWS CLI is one that ignores endpoint_url, and is the one that people get: another
// before it in PATH may be of the first line, which cannot read a configuration with a module.
func (r *run) oldCLI() bool {
	if _, err := os.Stat(r.path("/usr/local/bin/aws")); err == nil {
		return false
	}
	text, _ := os.ReadFile(r.path("/usr/lib/python3/dist-packages/awscli/__init__.py"))
	m := awsVersion.FindStringSubmatch(string(text))
	if m == nil {
		return false
	}
	minor, err := strconv.Atoi(m[1])
	return err == nil && minor < 13
}
