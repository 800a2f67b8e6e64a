package main

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cuda"
	"github.com/troupe-engine/troupe/internal/modelstore"
)

// diagnosis is what the engine finds on this machine and what it would use.
type diagnosis struct {
	Version versions        `json:"version"`
	Device  gpu.Info        `json:"device"`
	Why     string          `json:"device_reason"`
	Kernels []string        `json:"matmul_kernels"` // the device's; on a CPU its tiers, slowest first
	Pages   string          `json:"huge_pages"`
	CUDA    cuda.Report     `json:"cuda"`
	Store   string          `json:"model_store"`
	Models  []string        `json:"models"`
	Checks  []doctorFinding `json:"checks"`
}

// doctorFinding is one thing that serving needs.
type doctorFinding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

func newDoctorCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "doctor", Short: "Show what this machine has and what serving would use.", Args: cobra.NoArgs,
		Long: "Show what this machine has and what serving would use. With the flags of serve,\nit checks them. The exit code is 1 if serving would fail."}
	s := addSettings(cmd, "log-level", "log-format", "grace")
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		optionsErr := s.load(cmd)
		d, err := diagnose(s.Options, optionsErr)
		if err != nil {
			return err
		}
		if *asJSON {
			err = printJSON(cmd.OutOrStdout(), d)
		} else {
			err = d.print(cmd.OutOrStdout())
		}
		for _, c := range d.Checks {
			if !c.OK && err == nil {
				err = errReported
			}
		}
		return err
	}
	return cmd
}

func diagnose(opts troupe.Options, optionsErr error) (*diagnosis, error) {
	d := &diagnosis{Version: buildVersions(), Store: modelstore.Dir(), Pages: hugePages(), CUDA: cuda.Probe()}
	if optionsErr != nil {
		opts = troupe.DefaultOptions()
	}
	dev, why, err := troupe.ChooseDevice(opts)
	if err != nil {
		return nil, err
	}
	d.Device, d.Why = dev.Info(), why
	for _, i := range dev.Implementations(gpu.OpMatMul) {
		d.Kernels = append(d.Kernels, i.Name)
	}
	if err := dev.Close(); err != nil {
		return nil, err
	}
	for _, m := range modelstore.List() {
		d.Models = append(d.Models, m.Name)
	}
	_, modelErr := modelstore.Find(opts.Model)
	d.check("options", optionsErr, "valid")
	d.check("model", modelErr, "found")
	config, natsErr := opts.ReadNATSConfig()
	listen := ""
	if natsErr == nil {
		listen, natsErr = natsAddress(config, opts.NATSListen)
	}
	d.check("NATS configuration", natsErr, "valid")
	d.checkPort("HTTP "+opts.HTTP, opts.HTTP)
	if natsErr == nil {
		d.checkPort("NATS "+listen, listen)
	}
	return d, nil
}

func (d *diagnosis) check(name string, err error, good string) {
	f := doctorFinding{name, err == nil, good}
	if err != nil {
		f.Detail = err.Error()
	}
	d.Checks = append(d.Checks, f)
}

// checkPort listens for a moment.
func (d *diagnosis) checkPort(name, address string) {
	if address == "none" || address == "" {
		d.check(name, nil, "not served")
		return
	}
	l, err := net.Listen("tcp", address)
	if err == nil {
		err = l.Close()
	}
	d.check(name, err, "free")
}

func (d *diagnosis) print(w io.Writer) error {
	none := func(s string) string {
		if s == "" {
			return "not found"
		}
		return s
	}
	choice := ""
	if strings.HasPrefix(d.Device.Name, "cpu") {
		choice = " (TROUPE_CPU_TIER chooses)"
	}
	rows := [][2]string{
		{"version", fmt.Sprintf("troupe %s, %s, %s", d.Version.Version, d.Version.Go, d.Version.Platform)},
		{"device", d.Device.Name + ", " + d.Device.Description},
		{"", d.Why},
		{"matmul kernels", strings.Join(d.Kernels, ", ") + choice},
		{"processors", fmt.Sprintf("%d", runtime.NumCPU())},
		{"memory", fmt.Sprintf("%s, %s free", size(d.Device.MemoryTotal), size(d.Device.MemoryFree))},
		{"huge pages", d.Pages},
		{"CUDA", cmp.Or(d.CUDA.Error, strings.Join(d.CUDA.Devices, "; "))},
		{"  driver", library(d.CUDA.Driver, d.CUDA.DriverVersion)},
		{"  NVRTC", library(d.CUDA.NVRTC, d.CUDA.NVRTCVersion)},
		{"  cuBLASLt", library(d.CUDA.CublasLt, d.CUDA.CublasLtVersion)},
		{"  kernel cache", none(d.CUDA.KernelCache)},
		{"model store", none(d.Store)},
		{"models", strings.Join(d.Models, ", ")},
	}
	for _, c := range d.Checks {
		mark := "ok: "
		if !c.OK {
			mark = "PROBLEM: "
		}
		rows = append(rows, [2]string{c.Name, mark + c.Detail})
	}
	const name = 22
	for _, r := range rows {
		for i, line := range wrap(r[1], columnsMax-name-2) {
			if i > 0 {
				r[0] = ""
			}
			if _, err := fmt.Fprintf(w, "%-*s  %s\n", name, shorten(r[0], name), shorten(line, columnsMax-name-2)); err != nil {
				return err
			}
		}
	}
	return nil
}

// library says which file of a library serves, and its version.
func library(l cuda.Library, version string) string {
	if l.Path == "" {
		return "not found"
	}
	return l.Path + ", CUDA " + version
}

// hugePages is the kernel's policy on transparent huge pages, which weights profit from.
func hugePages() string {
	raw, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	if err != nil {
		return "unknown on " + runtime.GOOS
	}
	text := string(raw)
	if from := strings.IndexByte(text, '['); from >= 0 {
		if to := strings.IndexByte(text[from:], ']'); to > 0 {
			text = text[from+1 : from+to]
		}
	}
	switch policy := strings.TrimSpace(text); policy {
	case "never":
		return "never (madvise or always makes large models faster)"
	default:
		return policy
	}
}

// natsAddress is where the embedded server would listen.
func natsAddress(config, listen string) (string, error) {
	if listen != "" {
		return listen, nil
	}
	o := &server.Options{}
	if err := o.ProcessConfigString(config); err != nil {
		return "", err
	}
	host, port := o.Host, o.Port
	if host == "" {
		host = server.DEFAULT_HOST
	}
	if port == 0 {
		port = server.DEFAULT_PORT
	}
	return net.JoinHostPort(host, strconv.Itoa(max(port, 0))), nil // -1 is any free one
}
