package ec2

import (
	"bytes"
	"encoding/base64"
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// User data is any bytes, at most 16 KiB of them before base64, and can be changed while the instance is stopped.
func TestUserDataIsKeptByteForByte(t *testing.T) {
	r := newRig(t)
	every := make([]byte, 256)
	for k := range every {
		every[k] = byte(k)
	}
	most := bytes.Repeat(every, 64) // 16 KiB
	in := small()
	in.UserData = base64.StdEncoding.EncodeToString(most)
	id := r.run(in).Instances[0].InstanceId
	shown := func() []byte {
		t.Helper()
		out := must[*shape.DescribeInstanceAttributeOutput](r)(r.DescribeInstanceAttribute(r.ctx, &shape.DescribeInstanceAttributeInput{InstanceId: id, Attribute: "userData"}))
		raw, err := base64.StdEncoding.DecodeString(out.UserData.Value)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	if got := shown(); !bytes.Equal(got, most) {
		t.Errorf("%d bytes came back of %d, or others", len(got), len(most))
	}
	change := func(data []byte) error {
		_, err := r.ModifyInstanceAttribute(r.ctx, &shape.ModifyInstanceAttributeInput{InstanceId: id, UserData: &shape.BlobAttributeValue{Value: data}})
		return err
	}
	r.says(id, cloud.StateRunning)
	if err := change([]byte("new")); cloud.Code(err) != "IncorrectInstanceState" {
		t.Errorf("while it runs: got %v, want IncorrectInstanceState", err)
	}
	must[*shape.StopInstancesOutput](r)(r.StopInstances(r.ctx, &shape.StopInstancesInput{InstanceIds: []string{id}}))
	if err := change([]byte("new")); cloud.Code(err) != "IncorrectInstanceState" {
		t.Errorf("while it stops: got %v, want IncorrectInstanceState", err)
	}
	r.says(id, cloud.StateStopped)
	if err := change(append(most, 'x')); cloud.Code(err) != "InvalidParameterValue" {
		t.Errorf("one byte too many: got %v, want InvalidParameterValue", err)
	}
	if got := shown(); !bytes.Equal(got, most) {
		t.Error("what was refused has changed it")
	}
	for name, data := range map[string][]byte{"other bytes, in their full length": bytes.Repeat([]byte{0xff}, userDataLimit), "none": nil} {
		if err := change(data); err != nil || !bytes.Equal(shown(), data) {
			t.Errorf("%s: %v, and %d bytes are shown", name, err, len(shown()))
		}
	}
}
