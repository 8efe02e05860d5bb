//go:build needs

package main

// The generator reads the models of this module without importing it; this keeps it in go.mod.
import _ "github.com/aws/aws-sdk-go/aws"
