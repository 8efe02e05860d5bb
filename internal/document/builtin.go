package document

import "strings"

// RunShellScript is the name of the document that runs what its caller writes.
const RunShellScript = "AWS-RunShellScript"

// builtin is the documents that every account has, by name.
var builtin = map[string]string{
	RunShellScript: `{
  "schemaVersion": "2.2",
  "description": "Runs shell commands on Linux instances.",
  "parameters": {
    "commands": {
      "type": "StringList",
      "description": "The lines of the script.",
      "minItems": 1,
      "displayType": "textarea"
    },
    "workingDirectory": {
      "type": "String",
      "default": "",
      "description": "Where the script starts; the root directory if empty.",
      "maxChars": 4096
    },
    "executionTimeout": {
      "type": "String",
      "default": "3600",
      "description": "How many seconds the script may run, 5 to 172800.",
      "allowedPattern": "[1-9][0-9]{0,5}"
    }
  },
  "mainSteps": [
    {
      "action": "aws:runShellScript",
      "name": "runShellScript",
      "inputs": {
        "timeoutSeconds": "{{ executionTimeout }}",
        "runCommand": "{{ commands }}",
        "workingDirectory": "{{ workingDirectory }}"
      }
    }
  ]
}`,
}

// Builtin returns the text of a document that every account has. The name may be an ARN, as some tools
// write it: arn:aws:ssm:REGION::document/NAME.
func Builtin(name string) (content, version string, ok bool) {
	if strings.HasPrefix(name, "arn:") {
		_, name, _ = strings.Cut(name, ":document/")
	}
	content, ok = builtin[name]
	return content, "1", ok
}
