// Package codec packs and unpacks whole files in the formats that Linux kernels use.
//
// The image builder needs it at both ends: a ramdisk is packed in one of the formats that
// the guest's kernel can unpack, and the kernel itself arrives packed inside a bzImage.
// Formats are told apart by their first bytes, never by a name. Every unpacking has a limit,
// because a kernel image may come from a tenant and eight bytes can claim to be a terabyte.
// Packing is reproducible: equal input gives equal output, without times or names.
package codec

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Format names a packing.
type Format string

// The formats that Encode writes. Decode reads the same ones.
const (
	None Format = "none"
	Gzip Format = "gzip"
	Zstd Format = "zstd"
	LZ4  Format = "lz4" // the legacy frame, the only one that Linux reads
)

// ErrUnknown is returned for a name or for first bytes that belong to no known format.
var ErrUnknown = errors.New("unknown packing")

// ErrTooLarge is returned when the unpacked data would exceed the caller's limit.
var ErrTooLarge = errors.New("unpacked data exceeds the limit")

// Encode returns data packed in the given format, as small as the format allows.
func Encode(f Format, data []byte) ([]byte, error) {
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch f {
	case None:
		return data, nil
	case Gzip:
		w, err = gzip.NewWriterLevel(&out, gzip.BestCompression)
	case Zstd:
		// One goroutine: blocks are cut the same way on every machine. The window is the
		// largest that costs the unpacking kernel no more than 8 MiB.
		w, err = zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
			zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20), zstd.WithEncoderCRC(false))
	case LZ4:
		z := lz4.NewWriter(&out)
		err = z.Apply(lz4.LegacyOption(true), lz4.CompressionLevelOption(lz4.Level9), lz4.ConcurrencyOption(1))
		w = z
	default:
		return nil, fmt.Errorf("pack as %q: %w: use none, gzip, lz4 or zstd", string(f), ErrUnknown)
	}
	if err != nil {
		return nil, fmt.Errorf("set up %s: %v", f, err)
	}
	if _, err := w.Write(data); err != nil {
		return nil, fmt.Errorf("pack as %s: %v", f, err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack as %s: %v", f, err)
	}
	return out.Bytes(), nil
}

// Detect tells the format of packed data; ErrUnknown if the first bytes are not one of ours.
func Detect(data []byte) (Format, error) {
	if len(data) < 4 {
		return "", ErrUnknown
	}
	switch {
	case binary.BigEndian.Uint16(data) == 0x1f8b:
		return Gzip, nil
	case binary.LittleEndian.Uint32(data) == 0xfd2fb528: // RFC 8878 section 3.1.1
		return Zstd, nil
	case binary.LittleEndian.Uint32(data) == 0x184c2102: // LZ4 frame format, legacy frame
		return LZ4, nil
	}
	return "", fmt.Errorf("%w (it begins with % x)", ErrUnknown, data[:4])
}

// Decode unpacks data, whatever its format, to at most limit bytes.
// Bytes that follow a gzip or LZ4 stream are ignored.
func Decode(data []byte, limit int) ([]byte, error) {
	f, err := Detect(data)
	if err != nil {
		return nil, err
	}
	var r io.Reader
	switch f {
	case Gzip:
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("unpack gzip: %v", err)
		}
		z.Multistream(false)
		r = z
	case Zstd:
		z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(128<<20)) // what kernels are packed with (zstd -22)
		if err != nil {
			return nil, fmt.Errorf("unpack zstd: %v", err)
		}
		defer z.Close()
		r = z
	case LZ4:
		return decodeLZ4(data[4:], limit)
	}
	out, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if len(out) > limit {
		return nil, ErrTooLarge
	}
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", f, err)
	}
	return out, nil
}

// legacyBlock is what every block of a legacy LZ4 frame but the last unpacks to.
const legacyBlock = 8 << 20

// decodeLZ4 reads the blocks of a legacy frame. The format has no end mark: the last block is
// the one that unpacks to less than 8 MiB, or the one after which the data ends.
func decodeLZ4(data []byte, limit int) ([]byte, error) {
	var out []byte
	block := make([]byte, legacyBlock)
	for len(data) > 4 {
		n := int(binary.LittleEndian.Uint32(data))
		if n <= 0 || n > len(data)-4 {
			return nil, fmt.Errorf("unpack lz4: block of %d bytes, %d are left", n, len(data)-4)
		}
		m, err := lz4.UncompressBlock(data[4:4+n], block)
		if err != nil {
			return nil, fmt.Errorf("unpack lz4: %v", err)
		}
		if len(out)+m > limit {
			return nil, ErrTooLarge
		}
		out = append(out, block[:m]...)
		data = data[4+n:]
		if m < legacyBlock {
			break
		}
	}
	return out, nil
}
