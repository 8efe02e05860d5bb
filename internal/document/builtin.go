package document

import (
	"embed"
	"io/fs"
	"strings"
)

// RunShellScript is the name of the document that runs what its caller writes.
const RunShellScript = "AWS-RunShellScript"

// files are the documents that every account has, NAME.yaml, and the scripts that actions of ours run in the guest. What
// a caller gives comes to a script in its environment alone.
//
//go:embed builtin
var files embed.FS

var (
	inventoryScript = mustRead("inventory.sh")
	packagesScript  = mustRead("manager.sh") + mustRead("packages.sh")
	patchScript     = mustRead("manager.sh") + mustRead("patch.sh")
)

func mustRead(name string) string {
	text, err := fs.ReadFile(files, "builtin/"+name)
	if err != nil {
		panic(err) // it was there when this was compiled
	}
	return string(text)
}

// Builtins returns the names of the documents that every account has.
func Builtins() []string {
	entries, err := fs.ReadDir(files, "builtin")
	if err != nil {
		panic(err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".yaml"); ok {
			names = append(names, name)
		}
	}
	return names
}

// Builtin returns the text of a document that every account has. The name may be an ARN, as some tools
// write it: arn:aws:ssm:REGION::document/NAME.
func Builtin(name string) (content, version string, ok bool) {
	if strings.HasPrefix(name, "arn:") {
		_, name, _ = strings.Cut(name, ":document/")
	}
	if strings.ContainsAny(name, "/.") {
		return "", "1", false
	}
	text, err := fs.ReadFile(files, "builtin/"+name+".yaml")
	return string(text), "1", err == nil
}
