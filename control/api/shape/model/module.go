package model

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
)

// Module returns the directory of a module that go.mod of the directory root requires. It downloads the module when
// the cache lacks it: models are read as files, so no import has brought them there.
func Module(root, path string) (string, error) {
	cmd := exec.Command("go", "mod", "download", "-json", path)
	cmd.Dir, cmd.Stderr = root, os.Stderr
	out, err := cmd.Output()
	var module struct{ Dir, Error string }
	if jsonErr := json.Unmarshal(out, &module); err == nil {
		err = jsonErr
	}
	if err != nil || module.Dir == "" {
		return "", fmt.Errorf("download module %s: %v %s", path, err, module.Error)
	}
	return module.Dir, nil
}
