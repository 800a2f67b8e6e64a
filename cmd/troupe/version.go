package main

import (
	"fmt"
	"regexp"
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
	Modified bool   `json:"modified,omitempty"` // the source was not that commit's
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func buildVersions() versions {
	v := versions{Version: bus.BuildVersion, Protocol: schemas.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Commit = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	return v
}

// released is the version of a binary that was installed by it, as with go install …@v1.2.3; "" for any other.
func released(info *debug.BuildInfo) string {
	if m := releaseVersion.FindStringSubmatch(info.Main.Version); m != nil {
		return m[1]
	}
	return ""
}

// releaseVersion leaves out pseudo-versions, which Go gives builds of commits without a tag.
var releaseVersion = regexp.MustCompile(`^v(\d+\.\d+\.\d+(?:-(?:alpha|beta|rc)\.?\d*)?)$`)

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
		if v.Modified {
			commit += ", modified"
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "troupe %s (protocol %s, %s, %s%s)\n", v.Version, v.Protocol, v.Go, v.Platform, commit)
		return err
	}
	return cmd
}
