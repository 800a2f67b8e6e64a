package cuda

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/troupe-engine/troupe/gpu"
)

// Report is what this machine has for the cuda device.
type Report struct {
	Driver          Library  `json:"driver"`
	NVRTC           Library  `json:"nvrtc"`
	CublasLt        Library  `json:"cublaslt"` // optional: for products of many tokens in bf16
	CublasLtVersion string   `json:"cublaslt_version,omitempty"`
	DriverVersion   string   `json:"driver_version,omitempty"` // newest CUDA that the driver supports, "13.0"
	NVRTCVersion    string   `json:"nvrtc_version,omitempty"`
	Devices         []string `json:"devices,omitempty"` // "NVIDIA H200, sm_90, 150 GB"
	KernelCache     string   `json:"kernel_cache"`      // directory; "" if there is none
	Error           string   `json:"error,omitempty"`   // why a device cannot be opened
}

// Library is the outcome of looking for a shared library.
type Library struct {
	Name     string   `json:"name"`
	Path     string   `json:"path,omitempty"`     // what was loaded; "" if nothing was
	Searched []string `json:"searched,omitempty"` // patterns that were tried, in order
	Error    string   `json:"error,omitempty"`    // the loader's reason, where a file was found
}

// err says that a library is missing and where it was looked for.
func (l Library) err(hint string) error {
	reason := ""
	if l.Error != "" {
		reason = "; " + l.Error
	}
	return fmt.Errorf("%w: no usable %s; looked for %s%s; %s", gpu.ErrNotSupported, l.Name, strings.Join(l.Searched, ", "), reason, hint)
}

const (
	driverHint = "install the NVIDIA driver, or run the container with GPU access"
	nvrtcHint  = "install the CUDA toolkit, set CUDA_HOME, or pip install nvidia-cuda-nvrtc"
)

// Probe looks for the driver, NVRTC and devices. It loads libraries but creates no context.
func Probe() Report {
	s := hostSearch()
	r := Report{KernelCache: cacheDir()}
	var err error
	if r.Driver, r.DriverVersion, r.Devices, err = probeDriver(s); err != nil {
		r.Error = err.Error()
	}
	if lt, lib, err := loadCublasLt(s); err != nil {
		r.CublasLt = lib // it says what is wrong; the device works without
	} else {
		r.CublasLt, r.CublasLtVersion = lib, fmt.Sprintf("%d.%d", lt.version/10000, lt.version/100%100)
	}
	var nvrtcErr error
	if r.NVRTC, r.NVRTCVersion, nvrtcErr = probeNVRTC(s); nvrtcErr != nil && err == nil {
		r.Error = nvrtcErr.Error()
	}
	return r
}

func probeDriver(s search) (Library, string, []string, error) {
	d, lib, err := loadDriver(s)
	if err != nil {
		return lib, "", nil, err
	}
	version, err := d.version()
	if err != nil {
		return lib, "", nil, err
	}
	var list []string
	count, err := d.deviceCount()
	for i := 0; i < count && err == nil; i++ {
		var p properties
		if p, err = d.properties(i); err == nil {
			list = append(list, p.String())
		}
	}
	return lib, versionText(version), list, err
}

func probeNVRTC(s search) (Library, string, error) {
	n, lib, err := loadNVRTC(s)
	if err != nil {
		return lib, "", err
	}
	return lib, n.version, nil
}

func versionText(v int) string { return fmt.Sprintf("%d.%d", v/1000, v%1000/10) }

// search is where libraries are looked for, after the loader's own path.
type search struct {
	env  func(string) string
	glob func(pattern string) []string
	path func(program string) string // where PATH has a program; "" if nowhere
}

func hostSearch() search {
	return search{
		env: os.Getenv,
		glob: func(pattern string) []string {
			found, err := filepath.Glob(pattern)
			if err != nil {
				return nil // a directory name with a bracket: nothing of ours
			}
			return found
		},
		path: func(program string) string {
			p, err := exec.LookPath(program)
			if err != nil {
				return ""
			}
			return p
		},
	}
}

// driverPatterns are the places of libcuda: a bare name is for the loader, which knows
// LD_LIBRARY_PATH and its cache; the rest are where containers and WSL mount it.
func (s search) driverPatterns() []string {
	return []string{"libcuda.so.1", "/usr/lib/*-linux-gnu/libcuda.so.1", "/usr/lib64/libcuda.so.1",
		"/usr/local/nvidia/lib64/libcuda.so.1", "/usr/lib/wsl/lib/libcuda.so.1"}
}

// nvrtcPatterns are the places of NVRTC: the loader's path, a toolkit, pip's packages.
func (s search) nvrtcPatterns() []string {
	list := []string{"libnvrtc.so.13", "libnvrtc.so.12"}
	for _, name := range []string{"CUDA_HOME", "CUDA_PATH"} {
		if dir := s.env(name); dir != "" {
			list = append(list, filepath.Join(dir, "lib64/libnvrtc.so.1[23]"), filepath.Join(dir, "lib/libnvrtc.so.1[23]"))
		}
	}
	list = append(list, "/usr/local/cuda/lib64/libnvrtc.so.1[23]", "/usr/local/cuda-*/lib64/libnvrtc.so.1[23]")
	for _, packages := range s.pythonPackages() {
		list = append(list, filepath.Join(packages, "nvidia/cu13/lib/libnvrtc.so.13"), filepath.Join(packages, "nvidia/cuda_nvrtc/lib/libnvrtc.so.1[23]"))
	}
	return list
}

// pythonPackages are the directories where pip installs: of the active virtual environment, of
// the python3 on PATH, of the user and of the system.
func (s search) pythonPackages() []string {
	var list []string
	if dir := s.env("VIRTUAL_ENV"); dir != "" {
		list = append(list, filepath.Join(dir, "lib/python3*/site-packages"))
	}
	if python := s.path("python3"); python != "" {
		list = append(list, filepath.Join(filepath.Dir(filepath.Dir(python)), "lib/python3*/site-packages"))
	}
	if home := s.env("HOME"); home != "" {
		list = append(list, filepath.Join(home, ".local/lib/python3*/site-packages"))
	}
	return append(list, "/usr/local/lib/python3*/dist-packages", "/usr/lib/python3/dist-packages")
}

// find loads the first library that the patterns lead to. open is given a path, or a bare name
// for the loader to find.
func (s search) find(name string, patterns []string, open func(path string) error) (Library, bool) {
	lib := Library{Name: name, Searched: patterns}
	for _, pattern := range patterns {
		paths := []string{pattern}
		if filepath.IsAbs(pattern) {
			paths = s.glob(pattern)
		}
		for i := len(paths) - 1; i >= 0; i-- { // the newest of several versions is last
			err := open(paths[i])
			if err == nil {
				lib.Path = paths[i]
				return lib, true
			}
			if filepath.IsAbs(paths[i]) {
				lib.Error = err.Error()
			}
		}
	}
	return lib, false
}
