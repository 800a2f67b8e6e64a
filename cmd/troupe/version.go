package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// versions says what was built.
type versions struct {
	Version  string `json:"version"`
	Protocol string `json:"protocol"`
	Commit   string `json:"commit,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func buildVersions() versions {
	v := versions{Version: bus.BuildVersion, Protocol: schemas.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Commit = s.Value
			}
		}
	}
	return v
}

func newVersionCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "Show the version.", Args: cobra.NoArgs}
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v := buildVersions()
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), v)
		}
		commit := ""
		if v.Commit != "" {
			commit = ", commit " + v.Commit[:min(12, len(v.Commit))]
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "troupe %s (protocol %s, %s, %s%s)\n", v.Version, v.Protocol, v.Go, v.Platform, commit)
		return err
	}
	return cmd
}
