package ec2

import (
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/api/wire"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// What a launch asks for and would not get is refused: a success would be a lie.
func TestALaunchPromisesNothingThatIsNotThere(t *testing.T) {
	for form, code := range map[string]string{
		"": "",
		"Placement.AvailabilityZone=ichiro-1a&Placement.Tenancy=default":                     "",
		"NetworkInterface.1.DeviceIndex=0&NetworkInterface.1.AssociatePublicIpAddress=false": "",
		"NetworkInterface.1.InterfaceType=interface&NetworkInterface.1.NetworkCardIndex=0":   "",
		"CapacityReservationSpecification.CapacityReservationPreference=open":                "",
		"PrivateDnsNameOptions.HostnameType=ip-name":                                         "",

		"Placement.Tenancy=host":                             "UnsupportedOperation",
		"Placement.HostId=h-1":                               "UnsupportedOperation",
		"Placement.GroupName=g":                              "UnsupportedOperation",
		"Placement.PartitionNumber=1":                        "UnsupportedOperation",
		"EnablePrimaryIpv6=true":                             "UnsupportedOperation",
		"LicenseSpecification.1.LicenseConfigurationArn=arn": "UnsupportedOperation",
		"PrivateDnsNameOptions.HostnameType=resource-name":   "UnsupportedOperation",
		"BlockDeviceMapping.1.DeviceName=/dev/sdb":           "UnsupportedOperation",
		"CapacityReservationSpecification.CapacityReservationTarget.CapacityReservationId=cr-1": "UnsupportedOperation",
	} {
		t.Run(form, func(t *testing.T) {
			f, err := wire.ParseForm(form + "&ImageId=ami-1&MinCount=1&MaxCount=1")
			if err != nil {
				t.Fatal(err)
			}
			var in shape.RunInstancesInput
			if err := f.Decode(wire.EC2, &in, nil); err != nil {
				t.Fatal(err)
			}
			if err := unbuilt(&in); cloud.Code(err) != code {
				t.Errorf("got %v, want code %q", err, code)
			}
		})
	}
}
