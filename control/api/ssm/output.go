package ssm

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// granter asks the object store whether the caller may put an object, and returns what lets the control plane do it for them
// later. Errors are in S3's codes; that the store is away is none.
type granter interface {
	Grant(ctx context.Context, bucket, key string) (grant string, err error)
}

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// outputPlace reads where the output is to go besides; nil for nowhere. OutputS3Region is not looked at, as at AWS: there is one.
func outputPlace(in *shape.SendCommandInput) (*cloud.OutputPlace, error) {
	if in.OutputS3BucketName == "" && in.OutputS3KeyPrefix == "" {
		return nil, nil
	}
	levels := strings.Split(in.OutputS3KeyPrefix, "/")
	switch {
	case in.OutputS3BucketName == "":
		return nil, cloud.Errorf("InvalidOutputFolder", "OutputS3KeyPrefix is given without OutputS3BucketName: name the bucket")
	case !bucketName.MatchString(in.OutputS3BucketName):
		return nil, cloud.Errorf("InvalidOutputFolder", "OutputS3BucketName %.63q is not the name of a bucket", in.OutputS3BucketName)
	case utf8.RuneCountInString(in.OutputS3KeyPrefix) > 500:
		return nil, cloud.Errorf("ValidationException", "OutputS3KeyPrefix may have 500 characters")
	case slices.Contains(levels, ".") || slices.Contains(levels, "..") || strings.Contains(strings.Trim(in.OutputS3KeyPrefix, "/"), "//"):
		return nil, cloud.Errorf("InvalidOutputFolder", "OutputS3KeyPrefix %.100q has levels that objects cannot have", in.OutputS3KeyPrefix)
	}
	return &cloud.OutputPlace{Bucket: in.OutputS3BucketName, Prefix: in.OutputS3KeyPrefix}, nil
}

// delivery is what is to be done with the output of a command; the caller must be allowed to put it where they want it.
func (s *Service) delivery(ctx context.Context, c cloud.Command, steps []cloud.Step) (cloud.Delivery, error) {
	d := cloud.Delivery{Command: c.ID}
	for _, step := range steps {
		d.Steps = append(d.Steps, cloud.StepResult{Name: step.Name, Action: step.Action})
	}
	if s.Outputs == nil {
		return d, cloud.Errorf("InvalidOutputFolder", "There is no object store here: leave OutputS3BucketName out")
	}
	first := cloud.InstanceID("i")
	if len(c.Instances) > 0 {
		first = c.Instances[0]
	}
	var err error
	d.Grant, err = s.Outputs.Grant(ctx, c.Output.Bucket, c.Output.Key(c, first, d.Steps[0], "stdout"))
	switch cloud.Code(err) {
	case "NoSuchBucket", "InvalidBucketName":
		return d, cloud.Errorf("InvalidOutputFolder", "NoSuchBucket: The specified bucket does not exist: %s", c.Output.Bucket)
	case "AccessDenied":
		return d, cloud.Errorf("AccessDeniedException", "%s", err)
	}
	return d, err
}

// urls are where the outputs of a step are, or will be when they have been carried there. Of an output that is empty there is
// no object.
func (s *Service) urls(c cloud.Command, inv cloud.Invocation, step int) (stdout, stderr string) {
	if c.Output == nil || step < 0 || step >= len(inv.Steps) || !inv.Steps[step].Status.Terminal() {
		return "", ""
	}
	url := func(stream string) string {
		return s.Endpoint + "/" + c.Output.Bucket + "/" + c.Output.Key(c, inv.Instance, inv.Steps[step], stream)
	}
	return url("stdout"), url("stderr")
}
