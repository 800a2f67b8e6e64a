package troupe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cpu"
	"github.com/troupe-engine/troupe/gpu/cuda"
)

// computeTypes are the values of Options.Compute; "" is the device's default.
var computeTypes = map[string]gpu.DType{"f32": gpu.F32, "bf16": gpu.BF16}

// weightsDir is the directory that Options.WeightsCache names, or "" for none.
func weightsDir(option string) (string, error) {
	switch option {
	case "off", "":
		return "", nil
	case "auto":
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("weights_cache is auto, which needs the user's cache directory; name one, or off: %w", err)
		}
		return filepath.Join(cache, "troupe", "weights"), nil
	}
	return option, nil
}

// OpenDevice opens the device that opts choose.
func OpenDevice(opts Options) (gpu.Device, error) {
	dev, _, err := ChooseDevice(opts)
	return dev, err
}

// ChooseDevice opens the device that opts choose, and says why it is this one. With auto, or
// nothing, that is the first CUDA device if it opens, and otherwise the CPU.
func ChooseDevice(opts Options) (dev gpu.Device, why string, err error) {
	openCPU := func(why string) (gpu.Device, string, error) {
		dir, err := weightsDir(opts.WeightsCache)
		if err != nil {
			return nil, "", err
		}
		d, err := cpu.Open(cpu.Options{Threads: opts.Threads, Compute: computeTypes[opts.Compute], WeightsDir: dir, WeightsDirBytesMax: opts.WeightsCacheBytesMax})
		if err != nil {
			return nil, "", err
		}
		return d, why, nil
	}
	if opts.Device == "cpu" {
		return openCPU("device is cpu")
	}
	d, cudaErr := cuda.Open(cuda.Options{Compute: computeTypes[opts.Compute]})
	switch {
	case cudaErr == nil && opts.Device == "cuda":
		return d, "device is cuda", nil
	case cudaErr == nil:
		return d, "device is auto and a CUDA device opens", nil
	case opts.Device == "cuda":
		return nil, "", cudaErr
	case errors.Is(cudaErr, gpu.ErrNotSupported):
		return openCPU("device is auto and this machine has no usable CUDA device; troupe doctor says what was looked for")
	}
	return openCPU(fmt.Sprintf("device is auto and the CUDA device does not open: %v", cudaErr))
}
