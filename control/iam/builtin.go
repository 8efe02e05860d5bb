package iam

import "strings"

// builtinPrefix is the name space of the policies that every account has.
const builtinPrefix = "arn:aws:iam::aws:policy/"

func allow(actions ...string) string {
	return `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["` +
		strings.Join(actions, `","`) + `"],"Resource":"*"}]}`
}

// builtin are the policies with AWS's names that tools and recipes attach. The
// texts are ours: they grant what the name says, over the services that we have.
var builtin = map[string]string{
	"AdministratorAccess": allow("*"),
	"PowerUserAccess": `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","NotAction":["iam:*","sts:AssumeRole"],"Resource":"*"},` +
		`{"Effect":"Allow","Action":["iam:ListRoles","iam:GetRole","iam:GetInstanceProfile","iam:ListInstanceProfiles"],"Resource":"*"}]}`,
	"ReadOnlyAccess": allow("autoscaling:Describe*", "cloudwatch:Describe*", "cloudwatch:Get*", "cloudwatch:List*",
		"ec2:Describe*", "ec2:Get*", "elasticloadbalancing:Describe*", "iam:Get*", "iam:List*", "s3:Get*", "s3:List*",
		"resource-groups:Get*", "resource-groups:List*", "resource-groups:Search*", "ssm:Describe*", "ssm:Get*", "ssm:List*", "sts:GetCallerIdentity"),
	"AmazonEC2FullAccess":     allow("ec2:*", "autoscaling:*", "cloudwatch:*", "elasticloadbalancing:*"),
	"AmazonEC2ReadOnlyAccess": allow("ec2:Describe*", "ec2:Get*", "autoscaling:Describe*", "cloudwatch:Describe*", "cloudwatch:Get*", "cloudwatch:List*", "elasticloadbalancing:Describe*"),
	"AmazonS3FullAccess":      allow("s3:*"),
	"AmazonS3ReadOnlyAccess":  allow("s3:Get*", "s3:List*"),
	"AmazonSSMFullAccess":     allow("ssm:*", "ec2messages:*", "ssmmessages:*", "ec2:DescribeInstanceStatus"),
	"AmazonSSMReadOnlyAccess": allow("ssm:Describe*", "ssm:Get*", "ssm:List*"),
	"AmazonSSMManagedInstanceCore": allow("ssm:DescribeAssociation", "ssm:DescribeDocument", "ssm:GetDocument", "ssm:GetManifest",
		"ssm:GetParameter", "ssm:GetParameters", "ssm:ListAssociations", "ssm:ListInstanceAssociations", "ssm:PutInventory",
		"ssm:UpdateInstanceAssociationStatus", "ssm:UpdateInstanceInformation", "ssmmessages:*", "ec2messages:*"),
	"IAMFullAccess":               allow("iam:*"),
	"IAMReadOnlyAccess":           allow("iam:Get*", "iam:List*"),
	"CloudWatchAgentServerPolicy": allow("cloudwatch:PutMetricData", "ec2:DescribeTags", "ec2:DescribeVolumes"),
	"AutoScalingFullAccess":       allow("autoscaling:*", "ec2:Describe*", "cloudwatch:*"),
}

// builtinPolicy returns the built-in policy with this ARN.
func builtinPolicy(arn string) (Policy, bool) {
	name, ok := strings.CutPrefix(arn, builtinPrefix)
	if !ok {
		return Policy{}, false
	}
	// AWS keeps a few of them below a path: .../service-role/Name.
	name = name[strings.LastIndexByte(name, '/')+1:]
	document, ok := builtin[name]
	if !ok {
		return Policy{}, false
	}
	return Policy{
		Name: name, Path: "/", ID: builtinID(name), ARN: builtinPrefix + name, Created: builtinDate, Updated: builtinDate,
		Default: "v1", Last: 1, Versions: []PolicyVersion{{ID: "v1", Document: document, Created: builtinDate}},
	}, true
}
