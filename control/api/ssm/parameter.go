package ssm

import (
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/document"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// Limits of the standard tier.
const (
	maxParameters = 10000
	maxValue      = 4096
	maxLevels     = 15
	maxName       = 1011
)

// The types of parameters.
const (
	plainString  = "String"
	stringList   = "StringList"
	secureString = "SecureString"
)

var (
	parameterName = regexp.MustCompile(`^[a-zA-Z0-9_./-]+$`)
	// parameterReference is how a command's parameters name one of the store: {{ssm:name}} or {{ssm:name:version}}.
	parameterReference = regexp.MustCompile(`\{\{\s*ssm:([a-zA-Z0-9_./-]+)(?::([a-zA-Z0-9_.-]+))?\s*\}\}`)
	secretReference    = regexp.MustCompile(`\{\{\s*ssm-secure:[^{}]*\}\}`)
)

// parameterARN is the resource of a parameter. A leading slash is not written twice.
func parameterARN(name string) []string {
	name, _, _ = strings.Cut(bareName(name), ":")
	return []string{"parameter/" + strings.TrimPrefix(name, "/")}
}

// bareName returns a parameter's name, which may be given as an ARN. Names of one level have no slash there.
func bareName(name string) string {
	if _, after, ok := strings.Cut(name, ":parameter"); ok && strings.HasPrefix(name, "arn:") {
		if bare := strings.TrimPrefix(after, "/"); !strings.Contains(bare, "/") {
			return bare
		}
		return after
	}
	return name
}

func sealedID(p cloud.Parameter, version int) string {
	return cloud.DocumentID(p.Account, p.Name) + ":" + strconv.Itoa(version)
}

// find returns the caller's parameter, and the selector of a version that was given behind its name.
func (s *Service) find(ctx context.Context, snap *store.Snapshot, name string) (o store.Object[cloud.Parameter], selector string, err error) {
	own := s.own(ctx, name)
	name, selector, _ = strings.Cut(bareName(name), ":")
	o, err = store.MirroredGet(snap, store.Parameters, cloud.DocumentID(caller(ctx), name))
	if errors.Is(err, store.ErrNotFound) || err == nil && !own {
		err = cloud.Errorf("ParameterNotFound", "Parameter %.128s does not exist: see describe-parameters", name)
	}
	return o, selector, err
}

// PutParameter keeps a value under a name. Another value needs Overwrite.
func (s *Service) PutParameter(ctx context.Context, in *shape.PutParameterInput) (*shape.PutParameterOutput, error) {
	overwrite := in.Overwrite != nil && *in.Overwrite
	if err := puttable(in, overwrite); err != nil {
		return nil, err
	}
	given, err := merge(nil, in.Tags)
	if err != nil {
		return nil, err
	}
	var v cloud.ParameterVersion
	err = s.commit(ctx, func(snap *store.Snapshot) (*store.Txn, error) {
		o, _, err := s.find(ctx, snap, in.Name)
		isNew := cloud.Code(err) == "ParameterNotFound"
		switch {
		case err != nil && !isNew:
			return nil, err
		case !isNew && !overwrite:
			return nil, cloud.Errorf("ParameterAlreadyExists", "The parameter %s already exists: give Overwrite for another value", in.Name)
		case isNew && in.Type == "":
			return nil, cloud.Errorf("ValidationException", "A new parameter needs a Type: String, StringList or SecureString")
		}
		p := o.Value
		v = cloud.ParameterVersion{Number: 1, Type: in.Type, Description: in.Description, Pattern: in.AllowedPattern, Modified: s.Now().UTC(), By: api.CallerFrom(ctx).ARN}
		if isNew {
			if all, err := s.mine(ctx, snap); err != nil || len(all) >= maxParameters {
				return nil, errors.Join(err, cloud.Errorf("ParameterLimitExceeded", "There are %d parameters, and that is the most: delete some", len(all)))
			}
			p = cloud.Parameter{Account: caller(ctx), Name: in.Name, Tags: given}
		} else {
			had := p.Latest()
			v.Number = had.Number + 1
			if v.Type == "" {
				v.Type = had.Type
			}
			if v.Type != had.Type {
				return nil, cloud.Errorf("HierarchyTypeMismatchException", "Parameter %s is a %s: delete it before it becomes a %s", p.Name, had.Type, v.Type)
			}
		}
		if v.Type != secureString {
			v.Value = in.Value
		} else {
			box, err := store.Seal(s.Sealer, store.ParameterBoxes, sealedID(p, v.Number), in.Value)
			if err != nil {
				return nil, err
			}
			v.Box = box.Box
		}
		if p, err = p.With(v); err != nil {
			return nil, err
		}
		t := store.NewTxn()
		if id := cloud.DocumentID(p.Account, p.Name); isNew {
			store.Create(t, store.Parameters, id, p)
		} else {
			store.Update(t, store.Parameters, o, p)
		}
		return t, nil
	})
	if err != nil {
		return nil, err
	}
	note{Version: strconv.Itoa(v.Number)}.on(ctx)
	return &shape.PutParameterOutput{Version: number(v.Number), Tier: "Standard"}, nil
}

// puttable applies the rules that need nothing but the request. No error tells the value: it may be a secret.
func puttable(in *shape.PutParameterInput, overwrite bool) error {
	first, _, _ := strings.Cut(strings.ToLower(strings.TrimPrefix(in.Name, "/")), "/")
	switch {
	case len(in.Name) > maxName || !parameterName.MatchString(in.Name) || strings.HasSuffix(in.Name, "/") || strings.Contains(in.Name, "//"):
		return cloud.Errorf("ValidationException", "Name is made of letters, digits and _ . -, with / between the levels of a hierarchy")
	case strings.Contains(in.Name, "/") && !strings.HasPrefix(in.Name, "/"):
		return cloud.Errorf("ValidationException", "A name with levels begins with a slash: /%.128s", in.Name)
	case strings.Count(in.Name, "/") > maxLevels:
		return cloud.Errorf("HierarchyLevelLimitExceededException", "A name may have %d levels", maxLevels)
	case strings.HasPrefix(first, "aws") || strings.HasPrefix(first, "ssm"):
		return cloud.Errorf("ValidationException", "Names do not begin with aws or ssm: choose another one")
	case !slices.Contains([]string{"", plainString, stringList, secureString}, in.Type):
		return cloud.Errorf("UnsupportedParameterType", "Type is %.40q: give String, StringList or SecureString", in.Type)
	case in.Value == "" || !utf8.ValidString(in.Value):
		return cloud.Errorf("ValidationException", "Value is some text: give at least one character")
	case len(in.Value) > maxValue:
		return cloud.Errorf("ValidationException", "Value has %d bytes, and at most %d are allowed", len(in.Value), maxValue)
	case utf8.RuneCountInString(in.Description) > 1024 || len(in.AllowedPattern) > 1024:
		return cloud.Errorf("ValidationException", "Description and AllowedPattern may have 1024 characters each")
	case in.KeyId != "" && in.KeyId != "alias/aws/ssm":
		return cloud.Errorf("InvalidKeyId", "There is one key, alias/aws/ssm: leave KeyId out")
	case in.Policies != "" || !slices.Contains([]string{"", "Standard", "Intelligent-Tiering"}, in.Tier) || in.DataType != "" && in.DataType != "text":
		return cloud.Errorf("ValidationException", "Policies, tiers but Standard and data types but text are not there yet: leave them out")
	case overwrite && len(in.Tags) > 0:
		return cloud.Errorf("ValidationException", "Tags and Overwrite are not given together: use add-tags-to-resource")
	}
	pattern, err := regexp.Compile(`^(?:` + in.AllowedPattern + `)$`)
	if err != nil {
		return cloud.Errorf("InvalidAllowedPatternException", "AllowedPattern is not a regular expression")
	}
	if in.AllowedPattern != "" && !pattern.MatchString(in.Value) {
		return cloud.Errorf("ParameterPatternMismatchException", "The value does not match the AllowedPattern")
	}
	return nil
}

// mine are the caller's parameters.
func (s *Service) mine(ctx context.Context, snap *store.Snapshot) ([]cloud.Parameter, error) {
	all, err := store.Mirrored(snap, store.Parameters)
	var out []cloud.Parameter
	for _, o := range all {
		if o.Value.Account == caller(ctx) {
			out = append(out, o.Value)
		}
	}
	return out, err
}

// value is what a client is shown of a version: a SecureString as sealed, if it did not ask for decryption.
func (s *Service) value(p cloud.Parameter, v cloud.ParameterVersion, decrypt *bool) (string, error) {
	switch {
	case v.Type != secureString:
		return v.Value, nil
	case decrypt == nil || !*decrypt:
		return base64.StdEncoding.EncodeToString(v.Box), nil
	}
	return store.Unseal[string](s.Sealer, store.ParameterBoxes, sealedID(p, v.Number), store.Sealed{Box: v.Box})
}

// reference returns the value that a command is to have in the place of {{ssm:name:selector}}.
func (s *Service) reference(ctx context.Context, snap *store.Snapshot, name, selector string) (document.Stored, error) {
	o, _, err := s.find(ctx, snap, name)
	var v cloud.ParameterVersion
	if err == nil {
		v, err = o.Value.Version(selector)
	}
	if err == nil && v.Type == secureString {
		err = cloud.Errorf("InvalidParameters", "Parameter %s is a SecureString, and a command would show it: let the script read it", name)
	}
	var e cloud.Error
	if errors.As(err, &e) {
		return document.Stored{}, cloud.Errorf("InvalidParameters", "%s", e.Message)
	}
	return document.Stored{Text: v.Value, List: v.Type == stringList}, err
}

// sources are what a document may name of its caller's account, as far as they may read it.
func (s *Service) sources(ctx context.Context, snap *store.Snapshot) document.Sources {
	return document.Sources{
		Document: func(name, version string) ([]byte, error) {
			if err := s.may(ctx, "ssm:GetDocument", documentARN(name)[0]); err != nil {
				return nil, err
			}
			t, err := s.text(ctx, snap, name, version, "")
			if err == nil && t.doc.Type != typeCommand {
				err = cloud.Errorf("InvalidDocument", "Document %s is of type %s, and not of type Command", t.doc.Name, t.doc.Type)
			}
			return []byte(t.content), err
		},
		Parameter: func(name, selector string) (document.Stored, error) {
			if err := s.may(ctx, "ssm:GetParameters", parameterARN(name)[0]); err != nil {
				return document.Stored{}, err
			}
			return s.reference(ctx, snap, name, selector)
		},
	}
}

// may asks whether the caller may do what only the text of a document tells.
func (s *Service) may(ctx context.Context, action, resource string) error {
	if s.Authorize == nil {
		return nil
	}
	return s.Authorize(ctx, action, resource)
}

// refer puts the store's values in the place of {{ssm:name}} in a command's parameters, once. SecureStrings are refused:
// they would lie open in the command. A StringList that is an item of a list alone becomes items.
func (s *Service) refer(ctx context.Context, snap *store.Snapshot, doc document.Document, given map[string][]string) (map[string][]string, error) {
	for key, items := range given {
		if slices.ContainsFunc(items, secretReference.MatchString) {
			return nil, cloud.Errorf("InvalidParameters", "Parameter %.80s names an ssm-secure parameter: a secret would lie open in the command; let the script read it", key)
		}
	}
	names := referred(given)
	for _, name := range names { // else who may not read a parameter would have a guest print it
		if err := s.may(ctx, "ssm:GetParameters", parameterARN(name)[0]); err != nil {
			return nil, err
		}
	}
	if len(names) == 0 {
		return given, nil
	}
	out := maps.Clone(given)
	for key, items := range given {
		out[key] = []string{}
		for _, item := range items {
			var bad error
			var last document.Stored
			text := parameterReference.ReplaceAllStringFunc(item, func(ref string) string {
				m := parameterReference.FindStringSubmatch(ref)
				v, err := s.reference(ctx, snap, m[1], m[2])
				bad, last = errors.Join(bad, err), v
				return v.Text
			})
			if bad != nil {
				return nil, bad
			}
			all := []string{text}
			if last.List && doc.Parameters[key].IsList() && parameterReference.FindString(item) == strings.TrimSpace(item) {
				all = strings.Split(last.Text, ",")
			}
			out[key] = append(out[key], all...)
		}
	}
	return out, nil
}

// referred are the names that a command's parameters refer to.
func referred(given map[string][]string) (names []string) {
	for _, items := range given {
		for _, item := range items {
			for _, m := range parameterReference.FindAllStringSubmatch(item, -1) {
				if !slices.Contains(names, m[1]) {
					names = append(names, m[1])
				}
			}
		}
	}
	slices.Sort(names)
	return names
}
