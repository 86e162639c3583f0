// Detect objects in a PPM image with an export of `ghost-det export CONFIG CHECKPOINT -o model.ncnn`:
//     g++ -O2 -std=c++17 main.cpp -I NCNN/include/ncnn -L NCNN/lib -l ncnn -o detect
//     ./detect model.ncnn image.ppm 0.3
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "net.h"

struct Box {
    float x1, y1, x2, y2, score;
    int label;
};

static void fail(const std::string &message) { std::exit((std::fprintf(stderr, "%s\n", message.c_str()), 2)); }

// The text of a value in the description, which is JSON as json.dumps writes it: "key": value.
static std::string value_of(const std::string &json, const std::string &key) {
    size_t start = json.find("\"" + key + "\": ");
    if (start == std::string::npos) fail("the description has no " + key);
    start += key.size() + 4;
    size_t end = start;
    for (int depth = 0; end < json.size(); end++) {
        depth += (json[end] == '[') - (json[end] == ']');
        if (depth == 0 && (json[end] == ',' || json[end] == '}' || json[end] == ']')) break;
    }
    return json.substr(start, end - start + 1);
}

// All numbers in such a value, of nested lists too.
static std::vector<float> numbers_of(const std::string &json, const std::string &key) {
    std::string text = value_of(json, key);
    std::replace_if(text.begin(), text.end(), [](char c) { return std::string("[],}").find(c) != std::string::npos; }, ' ');
    std::istringstream words(text);
    std::vector<float> numbers;
    for (std::string word; words >> word;) numbers.push_back(std::strtof(word.c_str(), nullptr));
    return numbers;
}

// The intersection of two boxes over their union.
static float overlap(const Box &a, const Box &b) {
    float width = std::min(a.x2, b.x2) - std::max(a.x1, b.x1), height = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
    float both = std::max(0.f, width) * std::max(0.f, height);
    return both / ((a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - both);
}

int main(int argc, char **argv) {
    if (argc < 3) fail("usage: detect MODEL.ncnn IMAGE.ppm [SCORE]");
    const std::string model = argv[1];
    std::ifstream file(model + ".json");
    const std::string json((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (json.empty()) fail(model + ".json: cannot be read");
    auto number = [&](const char *key) { return numbers_of(json, key).at(0); };
    const float least = std::max(argc > 3 ? std::strtof(argv[3], nullptr) : 0.f, number("score_threshold"));
    const bool keep_ratio = value_of(json, "keep_ratio").find("true") == 0;
    const bool whole = value_of(json, "clip_to_canvas").find("true") == 0;
    const int height = number("height"), width = number("width"), bins = number("bins");
    const auto fill = numbers_of(json, "fill"), strides = numbers_of(json, "strides"), scale = numbers_of(json, "scale");
    const auto anchors = numbers_of(json, "anchors"), means = numbers_of(json, "means"), stds = numbers_of(json, "stds");
    const auto pad = numbers_of(json, "pad_value");
    const float iou_threshold = number("iou_threshold"), min_side = number("min_side"), max_boxes = number("max_detections");
    const float candidates = number("candidates");  // 0 if it is null: all

    std::ifstream picture(argv[2], std::ios::binary);
    std::string kind;
    int across = 0, down = 0, most = 0;
    picture >> kind >> across >> down >> most;
    if (kind != "P6" || most != 255 || across < 1 || down < 1) fail(std::string(argv[2]) + ": expected a PPM image (P6)");
    picture.get();
    std::vector<unsigned char> rgb(size_t(across) * down * 3);
    if (!picture.read(reinterpret_cast<char *>(rgb.data()), rgb.size())) fail(std::string(argv[2]) + ": too short");

    // The image at the top left of the canvas, in BGR.
    const auto [least_side, most_side] = std::minmax(scale[0], scale[1]);
    float ratio = std::min(most_side / std::max(across, down), least_side / std::min(across, down));
    ratio = std::min(ratio, std::min(float(width) / across, float(height) / down));
    const int w = keep_ratio ? std::max(1, int(across * ratio + 0.5f)) : int(scale[0]);
    const int h = keep_ratio ? std::max(1, int(down * ratio + 0.5f)) : int(scale[1]);
    std::vector<unsigned char> small(size_t(w) * h * 3);
    ncnn::resize_bilinear_c3(rgb.data(), across, down, small.data(), w, h);
    ncnn::Mat input(width, height, 3);
    for (int c = 0; c < 3; c++)
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
                input.channel(c).row(y)[x] = y < h && x < w ? small[(size_t(y) * w + x) * 3 + 2 - c] : whole ? pad[c] : fill[c];

    ncnn::Net net;
    if (net.load_param((model + ".param").c_str()) || net.load_model((model + ".bin").c_str())) fail(model + ": cannot be read");
    auto extractor = net.create_extractor();
    extractor.input("image", input);
    std::vector<Box> boxes;
    auto higher = [](const Box &a, const Box &b) { return a.score > b.score; };
    const float right = whole ? width : w, bottom = whole ? height : h, max_ratio = std::log(1000.f / 16);
    const int each = anchors.size() / 4 / strides.size();  // anchors of a cell
    for (size_t level = 0; level < strides.size(); level++) {
        const std::string stride = std::to_string(int(strides[level]));
        ncnn::Mat scores, raw;
        const std::string names[] = {"scores_" + stride, "boxes_" + stride};
        if (extractor.extract(names[0].c_str(), scores) || extractor.extract(names[1].c_str(), raw))
            fail(model + ": has no maps of stride " + stride);
        const int classes = scores.c / each, values = raw.c / each;
        std::vector<Box> found;
        for (int y = 0; y < scores.h; y++)
            for (int x = 0; x < scores.w; x++)
                for (int channel = 0; channel < scores.c; channel++) {
                    const float score = scores.channel(channel).row(y)[x];
                    if (score <= least) continue;
                    const int anchor = channel / classes;
                    auto at = [&](int value) { return raw.channel(anchor * values + value).row(y)[x]; };
                    const float *a = &anchors[(level * each + anchor) * 4];
                    const float cx = (a[0] + a[2]) / 2 + x * strides[level], cy = (a[1] + a[3]) / 2 + y * strides[level];
                    float side[4];  // the box's sides, from the centre cx, cy: left, top, right, bottom
                    for (int i = 0; i < 4 && bins > 0; i++) {
                        float total = 0, sum = 0;
                        for (int bin = 0; bin < bins; bin++) total += std::exp(at(i * bins + bin));
                        for (int bin = 0; bin < bins; bin++) sum += std::exp(at(i * bins + bin)) * bin;
                        side[i] = sum / total * strides[level] * (i < 2 ? -1 : 1);
                    }
                    for (int i = 0; i < 2 && bins == 0; i++) {
                        const float size = a[2 + i] - a[i], move = (at(i) * stds[i] + means[i]) * size;
                        const float grow = at(2 + i) * stds[2 + i] + means[2 + i];
                        const float half = size * std::exp(std::clamp(grow, -max_ratio, max_ratio)) / 2;
                        side[i] = move - half;
                        side[2 + i] = move + half;
                    }
                    found.push_back({std::clamp(cx + side[0], 0.f, right), std::clamp(cy + side[1], 0.f, bottom),
                                     std::clamp(cx + side[2], 0.f, right), std::clamp(cy + side[3], 0.f, bottom), score, channel % classes});
                }
        std::stable_sort(found.begin(), found.end(), higher);
        if (candidates > 0 && found.size() > candidates) found.resize(size_t(candidates));
        boxes.insert(boxes.end(), found.begin(), found.end());
    }

    std::stable_sort(boxes.begin(), boxes.end(), higher);
    std::vector<Box> kept;
    for (const Box &box : boxes) {
        const float side = std::min(box.x2 - box.x1, box.y2 - box.y1);
        auto same = [&](const Box &other) { return other.label == box.label && overlap(other, box) > iou_threshold; };
        if (side <= min_side || std::any_of(kept.begin(), kept.end(), same)) continue;
        if (kept.size() < max_boxes) kept.push_back(box);
    }
    for (const Box &box : kept)
        std::printf("%d %.4f %.2f %.2f %.2f %.2f\n", box.label, box.score, box.x1 * across / w, box.y1 * down / h,
                    box.x2 * across / w, box.y2 * down / h);
}
