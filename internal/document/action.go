package document

import (
	"cmp"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/pattern"
)

// action is what a step is to do, with placeholders in it. fill puts the values in their places; what is common to all
// steps is there already.
type action interface {
	fill(f *filler, s *cloud.Step) error
}

// actions are those that run, with what reads their inputs.
var actions = map[string]func() action{
	"aws:runShellScript":      func() action { return new(shellScript) },
	"aws:downloadContent":     func() action { return new(download) },
	"aws:runDocument":         func() action { return new(subDocument) },
	"aws:softwareInventory":   func() action { return new(inventory) },
	"ichiro:configurePackage": func() action { return new(packages) },
	"ichiro:patch":            func() action { return new(patches) },
}

func parseAction(s *Step) (action, error) {
	create, ok := actions[s.Action]
	switch {
	case s.Action == "aws:configurePackage":
		return nil, invalid("step %s has the action aws:configurePackage, which installs what Distributor has: for packages of the guest's distribution use ichiro:configurePackage", s.Name)
	case !ok:
		return nil, invalid("step %s has the action %.80q: aws:runShellScript, aws:downloadContent, aws:runDocument, aws:softwareInventory, ichiro:configurePackage and ichiro:patch are supported", s.Name, s.Action)
	}
	a := create()
	inputs := s.Inputs
	if len(inputs) == 0 {
		inputs = json.RawMessage("{}")
	}
	if err := strict(inputs, a); err != nil {
		return nil, invalid("the inputs of step %s: %v", s.Name, err)
	}
	if c, ok := a.(interface{ check() error }); ok {
		if err := c.check(); err != nil {
			return nil, invalid("step %s %v", s.Name, err)
		}
	}
	return a, nil
}

// shellScript are the inputs of aws:runShellScript. From User on they are ours.
type shellScript struct {
	ID               Text            `json:"id,omitempty"` // of schema 1.2, where it names nothing
	RunCommand       Texts           `json:"runCommand"`
	WorkingDirectory Text            `json:"workingDirectory,omitempty"`
	TimeoutSeconds   Text            `json:"timeoutSeconds,omitempty"`
	User             Text            `json:"user,omitempty"`
	Umask            Text            `json:"umask,omitempty"`
	Environment      map[string]Text `json:"environment,omitempty"`
	Limits           struct {
		CPUSeconds  Text `json:"cpuSeconds,omitempty"`
		OpenFiles   Text `json:"openFiles,omitempty"`
		Processes   Text `json:"processes,omitempty"`
		MemoryMiB   Text `json:"memoryMiB,omitempty"`
		FileSizeMiB Text `json:"fileSizeMiB,omitempty"`
	} `json:"limits,omitzero"`
}

type problem string

func (p problem) Error() string { return string(p) }

func (a *shellScript) check() error {
	if len(a.RunCommand) == 0 {
		return problem("has no runCommand")
	}
	for name := range a.Environment {
		if !variable.MatchString(name) {
			return problem("sets a variable whose name is not made of letters, digits and _")
		}
	}
	return checkTimeout(a.TimeoutSeconds)
}

func checkTimeout(t Text) error {
	if t != "" && !paramRef.MatchString(string(t)) {
		if _, ok := timeout(string(t)); !ok {
			return problem("has a timeoutSeconds that is not " + strconv.Itoa(minTimeout) + " to " + strconv.Itoa(maxTimeout))
		}
	}
	return nil
}

const sha256Digits = 64

var (
	variable  = word{pattern.New(`^[A-Za-z_][A-Za-z0-9_]*$`), 128}
	userName  = word{pattern.New(`^[a-z_][a-z0-9_.-]*\$?$|^[0-9]+$`), 32}
	umaskForm = pattern.New(`^0?[0-7]{3}$`)
	hexDigits = word{pattern.New(`^[0-9a-fA-F]+$`), sha256Digits}
)

func (a *shellScript) fill(f *filler, s *cloud.Step) error {
	if err := f.timeout(s, a.TimeoutSeconds); err != nil {
		return err
	}
	s.Script = f.script(a.RunCommand)
	s.WorkingDirectory = f.text(a.WorkingDirectory)
	if s.WorkingDirectory == "" && f.downloaded {
		s.WorkingDirectory = "." // what was downloaded with no place named lies there
	}
	for name, v := range a.Environment {
		f.set(s, name, f.text(v))
	}
	if s.User = f.text(a.User); s.User != "" && !userName.MatchString(s.User) {
		return refuse("step %s has the user %.40q, which is no name of a user", s.Name, s.User)
	}
	if s.Umask = f.text(a.Umask); s.Umask != "" && !umaskForm.MatchString(s.Umask) {
		return refuse("step %s has the umask %.40q: give three octal digits", s.Name, s.Umask)
	}
	for _, l := range []struct {
		name string
		text Text
		to   *int
	}{
		{"cpuSeconds", a.Limits.CPUSeconds, &s.Limits.CPUSeconds}, {"openFiles", a.Limits.OpenFiles, &s.Limits.OpenFiles},
		{"processes", a.Limits.Processes, &s.Limits.Processes}, {"memoryMiB", a.Limits.MemoryMiB, &s.Limits.MemoryMiB},
		{"fileSizeMiB", a.Limits.FileSizeMiB, &s.Limits.FileSizeMiB},
	} {
		text := f.text(l.text)
		if text == "" {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || n < 1 {
			return refuse("step %s has the limit %s %.40q: give a number from 1", s.Name, l.name, text)
		}
		*l.to = int(n)
	}
	return nil
}

// download are the inputs of aws:downloadContent. SourceInfo is a mapping, or the JSON text of one.
type download struct {
	SourceType      Text            `json:"sourceType"`
	SourceInfo      json.RawMessage `json:"sourceInfo"`
	DestinationPath Text            `json:"destinationPath,omitempty"`
	TimeoutSeconds  Text            `json:"timeoutSeconds,omitempty"`
}

// source is what SourceInfo may say. SHA256 is ours.
type source struct {
	Path       string `json:"path,omitempty"`
	URL        string `json:"url,omitempty"`
	AuthMethod string `json:"authMethod,omitempty"`
	Username   string `json:"username,omitempty"`
	Password   string `json:"password,omitempty"`
	SHA256     string `json:"sha256,omitempty"`
	Insecure   Text   `json:"allowInsecureDownload,omitempty"` // false forbids http; if it is not given, the URL says what is wanted
}

func (a *download) check() error {
	if len(a.SourceInfo) == 0 {
		return problem("has no sourceInfo")
	}
	return checkTimeout(a.TimeoutSeconds)
}

func (a *download) fill(f *filler, s *cloud.Step) error {
	if err := f.timeout(s, a.TimeoutSeconds); err != nil {
		return err
	}
	text, err := f.object(a.SourceInfo)
	if err != nil {
		return refuse("step %s has a sourceInfo that is not read: %v", s.Name, err)
	}
	var from source
	if err := strict([]byte(text), &from); err != nil {
		return refuse("step %s has a sourceInfo that is not read: %v", s.Name, err)
	}
	insecure, err := strconv.ParseBool(cmp.Or(string(from.Insecure), "true"))
	if err != nil {
		return refuse("step %s has the allowInsecureDownload %.40q: give true or false", s.Name, from.Insecure)
	}
	d := &cloud.StepDownload{SHA256: strings.ToLower(from.SHA256), Destination: f.text(a.DestinationPath)}
	switch kind := f.text(a.SourceType); kind {
	case "S3":
		d.URL, d.S3 = from.Path, true
	case "HTTP":
		d.URL = from.URL
		if from.AuthMethod == "Basic" {
			d.User, d.Password = from.Username, from.Password
		} else if from.AuthMethod != "" && from.AuthMethod != "None" {
			return refuse("step %s has the authMethod %.40q: None and Basic are supported", s.Name, from.AuthMethod)
		}
	default:
		return refuse("step %s has the sourceType %.40q: S3 and HTTP are supported", s.Name, kind)
	}
	switch {
	case !strings.HasPrefix(d.URL, "https://") && !strings.HasPrefix(d.URL, "http://"):
		return refuse("step %s downloads from %.80q, which is no URL of http or https", s.Name, d.URL)
	case !insecure && strings.HasPrefix(d.URL, "http://"):
		return refuse("step %s downloads from %.80q without TLS, which its allowInsecureDownload forbids", s.Name, d.URL)
	case strings.HasSuffix(d.URL, "/"):
		return refuse("step %s downloads from %.80q, which is no file: folders are not downloaded", s.Name, d.URL)
	case d.SHA256 != "" && (len(d.SHA256) != sha256Digits || !hexDigits.MatchString(d.SHA256)):
		return refuse("step %s has a sha256 that is not 64 hexadecimal digits", s.Name)
	}
	s.Download, f.downloaded = d, true
	return nil
}

// subDocument are the inputs of aws:runDocument.
type subDocument struct {
	DocumentType       Text            `json:"documentType"`
	DocumentPath       Text            `json:"documentPath"`
	DocumentParameters json.RawMessage `json:"documentParameters,omitempty"`
}

func (a *subDocument) fill(f *filler, s *cloud.Step) error {
	given := map[string][]string{}
	if len(a.DocumentParameters) > 0 {
		text, err := f.object(a.DocumentParameters)
		if err != nil {
			return refuse("step %s has documentParameters that are not read: %v", s.Name, err)
		}
		var values map[string]Value
		if err := json.Unmarshal([]byte(text), &values); err != nil {
			return refuse("step %s has documentParameters that are not read: %v", s.Name, err)
		}
		for name, v := range values {
			given[name] = v.Items
		}
	}
	s.TimeoutSeconds = maxTimeout // how long its steps may take only the guest knows
	path := f.text(a.DocumentPath)
	switch kind := f.text(a.DocumentType); kind {
	case "LocalPath":
		if path == "" {
			return refuse("step %s has no documentPath", s.Name)
		}
		s.Document = &cloud.StepDocument{Path: path, Parameters: given}
		return nil
	case "SSMDocument":
		steps, err := f.other(path, given)
		if cloud.Code(err) == "AccessDeniedException" {
			return err
		}
		if err != nil {
			return refuse("document %.128s of step %s: %v", path, s.Name, err)
		}
		s.Document, s.TimeoutSeconds = &cloud.StepDocument{Steps: steps}, minTimeout
		for _, inner := range steps {
			s.TimeoutSeconds = min(s.TimeoutSeconds+inner.TimeoutSeconds, maxTimeout)
		}
		return nil
	default:
		return refuse("step %s has the documentType %.40q: LocalPath and SSMDocument are supported", s.Name, kind)
	}
}

// inventory are the inputs of aws:softwareInventory: of what it may collect, packages alone are collected here.
type inventory struct {
	Applications     Text `json:"applications,omitempty"`
	AWSComponents    Text `json:"awsComponents,omitempty"`
	NetworkConfig    Text `json:"networkConfig,omitempty"`
	Files            Text `json:"files,omitempty"`
	Services         Text `json:"services,omitempty"`
	InstanceDetailed Text `json:"instanceDetailedInformation,omitempty"`
	CustomInventory  Text `json:"customInventory,omitempty"`
	BillingInfo      Text `json:"billingInfo,omitempty"` // from here on: of Windows, or of AWS's bills, and so empty here as there
	WindowsUpdates   Text `json:"windowsUpdates,omitempty"`
	WindowsRoles     Text `json:"windowsRoles,omitempty"`
	WindowsRegistry  Text `json:"windowsRegistry,omitempty"`
	TimeoutSeconds   Text `json:"timeoutSeconds,omitempty"`
}

func (a *inventory) fill(f *filler, s *cloud.Step) error {
	for _, t := range []Text{a.AWSComponents, a.NetworkConfig, a.Files, a.Services, a.InstanceDetailed, a.CustomInventory} {
		if v := f.text(t); v != "" && v != "Disabled" {
			return refuse("step %s asks for more than applications, which alone are collected: leave it out or say Disabled", s.Name)
		}
	}
	if v := f.text(a.Applications); v != "Enabled" {
		return refuse("step %s collects nothing: say Enabled for applications", s.Name)
	}
	s.Script = inventoryScript
	return f.timeout(s, a.TimeoutSeconds)
}

// packages are the inputs of ichiro:configurePackage.
type packages struct {
	Action         Text  `json:"action"`
	Name           Texts `json:"name,omitempty"`
	Version        Text  `json:"version,omitempty"`
	TimeoutSeconds Text  `json:"timeoutSeconds,omitempty"`
}

// packageName is what apt, dnf and apk have for names, and nothing that any of them could take for an option.
var packageName = word{pattern.New(`^[A-Za-z0-9][A-Za-z0-9.+_:@~^-]*$`), 128}

func (a *packages) fill(f *filler, s *cloud.Step) error {
	verb, version := f.text(a.Action), f.text(a.Version)
	if verb != "Install" && verb != "Uninstall" && verb != "Update" {
		return refuse("step %s has the action %.40q: Install, Uninstall and Update are supported", s.Name, verb)
	}
	var names []string
	for _, name := range f.lines(a.Name) {
		if !packageName.MatchString(name) {
			return refuse("step %s has %.80q for a package, which is no name of one", s.Name, name)
		}
		names = append(names, name)
	}
	switch {
	case len(names) == 0:
		return refuse("step %s names no package", s.Name)
	case version != "" && (len(names) != 1 || verb == "Uninstall"):
		return refuse("step %s has a version, which needs one package to install or update", s.Name)
	case version != "" && !packageName.MatchString(version):
		return refuse("step %s has the version %.80q, which is none", s.Name, version)
	}
	f.set(s, "ACTION", verb)
	f.set(s, "PACKAGES", strings.Join(names, " "))
	f.set(s, "VERSION", version)
	s.Script = packagesScript
	return f.timeout(s, a.TimeoutSeconds)
}

// patches are the inputs of ichiro:patch.
type patches struct {
	Operation      Text `json:"operation"`
	RebootOption   Text `json:"rebootOption,omitempty"`
	TimeoutSeconds Text `json:"timeoutSeconds,omitempty"`
}

func (a *patches) fill(f *filler, s *cloud.Step) error {
	operation, reboot := f.text(a.Operation), f.text(a.RebootOption)
	if operation != "Scan" && operation != "Install" {
		return refuse("step %s has the operation %.40q: Scan and Install are supported", s.Name, operation)
	}
	if reboot != "" && reboot != "RebootIfNeeded" && reboot != "NoReboot" {
		return refuse("step %s has the rebootOption %.40q: RebootIfNeeded and NoReboot are supported", s.Name, reboot)
	}
	f.set(s, "OPERATION", operation)
	f.set(s, "REBOOT", reboot)
	s.Script = patchScript
	return f.timeout(s, a.TimeoutSeconds)
}
