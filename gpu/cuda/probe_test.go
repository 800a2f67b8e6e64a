package cuda

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
)

// machine is a search over imaginary files.
func machine(env map[string]string, files ...string) search {
	return search{
		env: func(name string) string { return env[name] },
		glob: func(pattern string) (found []string) {
			for _, f := range files {
				if ok, _ := filepath.Match(pattern, f); ok {
					found = append(found, f)
				}
			}
			slices.Sort(found)
			return found
		},
		path: func(program string) string { return env["which "+program] },
	}
}

func TestNVRTCIsFoundWhereItIsInstalled(t *testing.T) {
	cases := []struct {
		what string
		env  map[string]string
		file string
	}{
		{"CUDA_HOME", map[string]string{"CUDA_HOME": "/opt/cuda"}, "/opt/cuda/lib64/libnvrtc.so.13"},
		{"CUDA_PATH", map[string]string{"CUDA_PATH": "/opt/cuda"}, "/opt/cuda/lib/libnvrtc.so.12"},
		{"toolkit", nil, "/usr/local/cuda-13.0/lib64/libnvrtc.so.13"},
		{"virtual environment", map[string]string{"VIRTUAL_ENV": "/v"}, "/v/lib/python3.11/site-packages/nvidia/cu13/lib/libnvrtc.so.13"},
		{"python on PATH", map[string]string{"which python3": "/opt/t/bin/python3"}, "/opt/t/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12"},
		{"pip --user", map[string]string{"HOME": "/home/u"}, "/home/u/.local/lib/python3.12/site-packages/nvidia/cu13/lib/libnvrtc.so.13"},
	}
	for _, c := range cases {
		s := machine(c.env, c.file)
		open := func(path string) error {
			if path != c.file {
				return errors.New("not there")
			}
			return nil
		}
		if lib, ok := s.find("libnvrtc", s.nvrtcPatterns(), open); !ok || lib.Path != c.file {
			t.Errorf("%s: found %v %+v", c.what, ok, lib)
		}
	}
}

func TestTheLoadersOwnPathComesFirst(t *testing.T) {
	s := machine(nil, "/usr/local/cuda/lib64/libnvrtc.so.13")
	lib, ok := s.find("libnvrtc", s.nvrtcPatterns(), func(string) error { return nil })
	if !ok || lib.Path != "libnvrtc.so.13" {
		t.Errorf("%v %+v", ok, lib)
	}
}

func TestMissingLibrarySaysWhereItWasLookedFor(t *testing.T) {
	s := machine(map[string]string{"CUDA_HOME": "/opt/cuda"}, "/opt/cuda/lib64/libnvrtc.so.12")
	lib, ok := s.find("libnvrtc", s.nvrtcPatterns(), func(string) error { return errors.New("wrong ELF class") })
	if ok {
		t.Fatalf("%+v", lib)
	}
	err := lib.err(nvrtcHint)
	if !errors.Is(err, gpu.ErrNotSupported) {
		t.Errorf("%v, want ErrNotSupported", err)
	}
	for _, part := range []string{"libnvrtc", "/opt/cuda/lib64", "/usr/local/cuda", "wrong ELF class", "CUDA_HOME"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is missing from %v", part, err)
		}
	}
}

// Probe and Open must work out what to say on any machine, with or without a GPU.
func TestProbeAgreesWithOpen(t *testing.T) {
	r := Probe()
	d, err := Open(Options{})
	switch {
	case err == nil:
		if r.Error != "" || len(r.Devices) == 0 || r.Driver.Path == "" || r.NVRTC.Path == "" {
			t.Errorf("a device opens, but Probe says %+v", r)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	case !errors.Is(err, gpu.ErrNotSupported):
		t.Errorf("Open: %v, want ErrNotSupported", err)
	case r.Error == "" && len(r.Devices) > 0:
		t.Errorf("Probe finds %v, but Open says %v", r.Devices, err)
	case r.Driver.Path == "" && !strings.Contains(err.Error(), "libcuda.so.1"):
		t.Errorf("Open does not say what it looked for: %v", err)
	}
}

func TestOpenRejectsOptions(t *testing.T) {
	for _, o := range []Options{{Device: -1}, {MemoryLimitBytes: -1}} {
		if d, err := Open(o); err == nil {
			d.Close()
			t.Errorf("Open(%+v) succeeded", o)
		}
	}
}
