package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ichiro-metal/ichiro/control/api/shape/model"
)

// The models end in 2024; the clients went on. These tables hold names taken as facts from what the
// clients of November 2026 send (request_snapshot of aws-sdk-go-v2, proved in control/api/wire).

// added lists members that ichiro serves although the models lack them: member, type and, where it is not
// the member itself, the wire name.
var added = map[string][][3]string{
	"ec2.StopInstancesRequest":                  {{"SkipOsShutdown", "Boolean"}},
	"ec2.TerminateInstancesRequest":             {{"SkipOsShutdown", "Boolean"}, {"Force", "Boolean"}},
	"ec2.DeregisterImageRequest":                {{"DeleteAssociatedSnapshots", "Boolean"}},
	"ec2.CreateDefaultSubnetRequest":            {{"AvailabilityZoneId", "String"}},
	"ec2.CreateVolumeRequest":                   {{"AvailabilityZoneId", "String"}},
	"ec2.ImportVolumeRequest":                   {{"AvailabilityZoneId", "String"}},
	"ec2.ModifyInstanceMetadataDefaultsRequest": {{"HttpTokensEnforced", "String"}},
	"ec2.Placement":                             {{"AvailabilityZoneId", "String", "availabilityZoneId"}},
	"resourcegroups.CreateGroupInput":           described,
	"resourcegroups.UpdateGroupInput":           described,
	"resourcegroups.Group":                      described,
	"resourcegroups.GroupIdentifier":            append(described[:3:3], [3]string{"Description", "Description"}),
}

// described is what a resource group says of itself beside its description.
var described = [][3]string{{"Criticality", "MaxResults"}, {"DisplayName", "Description"}, {"Owner", "Description"}}

// pointer lists string members of which "not given" and "given empty" are different wishes.
var pointer = map[string]bool{
	"ec2.TagCriterion.Value": true, // DeleteTags: absent = whatever the value is

	"resourcegroups.UpdateGroupInput.Description": true, // absent = as it is
	"resourcegroups.UpdateGroupInput.DisplayName": true,
	"resourcegroups.UpdateGroupInput.Owner":       true,
}

// keep lists string members of responses that are written even when empty, because the service does and
// scripts compare with "" rather than with null.
var keep = map[string]bool{
	"ec2.Instance.PublicDnsName":                           true,
	"ec2.Instance.PrivateDnsName":                          true,
	"ec2.Instance.StateTransitionReason":                   true,
	"ec2.Tag.Value":                                        true,
	"ec2.AttributeValue.Value":                             false,
	"ssm.GetCommandInvocationResult.StandardOutputContent": true,
	"ssm.GetCommandInvocationResult.StandardErrorContent":  true,
	"ssm.GetCommandInvocationResult.StandardOutputUrl":     true,
	"ssm.GetCommandInvocationResult.StandardErrorUrl":      true,
	"ssm.CommandInvocation.StandardOutputUrl":              true,
	"ssm.CommandInvocation.StandardErrorUrl":               true,
	"ssm.GetCommandInvocationResult.Comment":               true,
	"ssm.Command.Comment":                                  true,
	"ssm.CommandInvocation.Comment":                        true,
	"ssm.Command.OutputS3BucketName":                       true,
	"ssm.Command.OutputS3KeyPrefix":                        true,
	"ssm.CommandPlugin.Output":                             true,
	"ssm.CommandPlugin.StandardOutputUrl":                  true,
	"ssm.CommandPlugin.StandardErrorUrl":                   true,
}

// relaxed lists members that the models require and the service no longer does.
var relaxed = map[string]string{
	"ec2.CreateDefaultSubnetRequest": "AvailabilityZone", // or AvailabilityZoneId
	"ec2.CreateVolumeRequest":        "AvailabilityZone",
	"ec2.ImportVolumeRequest":        "AvailabilityZone",
	"ec2.CreateNatGatewayRequest":    "SubnetId", // a regional gateway has none
}

// ignored lists, per operation, parameters that are accepted without effect.
var ignored = map[string]map[string]string{
	"ec2": {
		"AllocateAddress":                  `IpamPoolId`,
		"AssociateRouteTable":              `PublicIpv4Pool`,
		"AttachNetworkInterface":           `EnaQueueCount`,
		"AttachVolume":                     `EbsCardIndex`,
		"CopyImage":                        `DestinationAvailabilityZone DestinationAvailabilityZoneId SnapshotCopyCompletionDurationMinutes`,
		"CopySnapshot":                     `CompletionDurationMinutes DestinationAvailabilityZone`,
		"CreateImage":                      `BlockDeviceMapping.Ebs.AvailabilityZone BlockDeviceMapping.Ebs.AvailabilityZoneId BlockDeviceMapping.Ebs.EbsCardIndex BlockDeviceMapping.Ebs.VolumeInitializationRate BootModeOverride SnapshotLocation`,
		"CreateLaunchTemplate":             `LaunchTemplateData.BlockDeviceMapping.Ebs.EbsCardIndex LaunchTemplateData.BlockDeviceMapping.Ebs.VolumeInitializationRate LaunchTemplateData.CpuOptions.NestedVirtualization LaunchTemplateData.InstanceRequirements.BaselinePerformanceFactors LaunchTemplateData.InstanceRequirements.RequireEncryptionInTransit LaunchTemplateData.NetworkInterface.EnaQueueCount LaunchTemplateData.NetworkPerformanceOptions LaunchTemplateData.Operator LaunchTemplateData.Placement.AvailabilityZoneId LaunchTemplateData.SecondaryInterface Operator`,
		"CreateLaunchTemplateVersion":      `LaunchTemplateData.BlockDeviceMapping.Ebs.EbsCardIndex LaunchTemplateData.BlockDeviceMapping.Ebs.VolumeInitializationRate LaunchTemplateData.CpuOptions.NestedVirtualization LaunchTemplateData.InstanceRequirements.BaselinePerformanceFactors LaunchTemplateData.InstanceRequirements.RequireEncryptionInTransit LaunchTemplateData.NetworkInterface.EnaQueueCount LaunchTemplateData.NetworkPerformanceOptions LaunchTemplateData.Operator LaunchTemplateData.Placement.AvailabilityZoneId LaunchTemplateData.SecondaryInterface`,
		"CreateNatGateway":                 `AvailabilityMode AvailabilityZoneAddress VpcId`,
		"CreateNetworkInterface":           `Operator`,
		"CreatePlacementGroup":             `LinkedGroupId Operator ParentGroupId`,
		"CreateRoute":                      `OdbNetworkArn`,
		"CreateSnapshot":                   `Location`,
		"CreateSnapshots":                  `Location`,
		"CreateVolume":                     `Operator VolumeInitializationRate`,
		"CreateVpc":                        `VpcEncryptionControl`,
		"DescribeInstanceStatus":           `IncludeManagedResources`,
		"DescribeInstanceTypes":            `IncludeUnsupportedInRegion`,
		"DescribeInstances":                `IncludeManagedResources`,
		"DescribeLaunchTemplateVersions":   `IncludeManagedResources`,
		"DescribeLaunchTemplates":          `IncludeManagedResources`,
		"DescribeNetworkInterfaces":        `IncludeManagedResources`,
		"DescribeVolumeStatus":             `IncludeManagedResources`,
		"DescribeVolumes":                  `IncludeManagedResources`,
		"DescribeVolumesModifications":     `IncludeManagedResources`,
		"ModifyInstanceAttribute":          `EnclaveOptions`,
		"ModifyInstanceMaintenanceOptions": `RebootMigration`,
		"ModifyNetworkInterfaceAttribute":  `AssociatedSubnetId Attachment.DefaultEnaQueueCount Attachment.EnaQueueCount`,
		"RegisterImage":                    `BlockDeviceMapping.Ebs.AvailabilityZone BlockDeviceMapping.Ebs.AvailabilityZoneId BlockDeviceMapping.Ebs.EbsCardIndex BlockDeviceMapping.Ebs.VolumeInitializationRate`,
		"ReplaceRoute":                     `OdbNetworkArn`,
		"RunInstances":                     `BlockDeviceMapping.Ebs.AvailabilityZone BlockDeviceMapping.Ebs.AvailabilityZoneId BlockDeviceMapping.Ebs.EbsCardIndex BlockDeviceMapping.Ebs.VolumeInitializationRate CpuOptions.NestedVirtualization NetworkInterface.EnaQueueCount NetworkPerformanceOptions Operator SecondaryInterface`,
	},
	"sts": {
		"AssumeRole":                `MinimumSessionTokenSize`,
		"AssumeRoleWithWebIdentity": `MinimumSessionTokenSize`,
		"GetSessionToken":           `MinimumSessionTokenSize`,
	},
}

// amend applies the tables to a model.
func amend(pkg string, m *model.Model) error {
	if pkg == "ec2" {
		tag := *m.Shapes["Tag"]
		m.Shapes["TagCriterion"] = &tag
		m.Shapes["TagCriterionList"] = &model.Shape{Type: "list", Member: &model.Ref{Shape: "TagCriterion", LocationName: "item"}}
		m.Shapes["DeleteTagsRequest"].Members["Tags"].Shape = "TagCriterionList"
	}
	for name, members := range added {
		svc, shape, _ := strings.Cut(name, ".")
		if svc != pkg {
			continue
		}
		s := m.Shapes[shape]
		if s == nil {
			return fmt.Errorf("amend %s: no such shape", name)
		}
		for _, x := range members {
			if s.Members[x[0]] != nil || m.Shapes[x[1]] == nil {
				return fmt.Errorf("amend %s: member %s exists or has no type %s", name, x[0], x[1])
			}
			s.Members[x[0]] = &model.Ref{Shape: x[1], LocationName: x[2]}
		}
	}
	for name, members := range relaxed {
		svc, shape, _ := strings.Cut(name, ".")
		if svc != pkg {
			continue
		}
		for _, x := range strings.Fields(members) {
			i := slices.Index(m.Shapes[shape].Required, x)
			if i < 0 {
				return fmt.Errorf("amend %s: %s is not required", name, x)
			}
			m.Shapes[shape].Required = slices.Delete(m.Shapes[shape].Required, i, i+1)
		}
	}
	return nil
}
