// Detect objects in a PPM image with an export of `ghost-det export CONFIG CHECKPOINT -o model.ncnn`:
//     g++ -O2 -std=c++17 main.cpp -I NCNN/include/ncnn -L NCNN/lib -l ncnn -o detect
//     ./detect model.ncnn image.ppm 0.3
#include <algorithm>
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
    const size_t start = json.find("\"" + key + "\": ");
    if (start == std::string::npos) fail("the description has no " + key);
    const size_t value = start + key.size() + 4;
    return json.substr(value, json.find_first_of(json[value] == '[' ? "]" : ",}", value) - value);
}

// The numbers in such a value: those of a list, or one.
static std::vector<float> numbers_of(const std::string &json, const std::string &key) {
    std::string text = value_of(json, key);
    std::replace_if(text.begin(), text.end(), [](char c) { return c == '[' || c == ','; }, ' ');
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
    const bool keep_ratio = value_of(json, "keep_ratio") == "true", whole = value_of(json, "clip_to_canvas") == "true";
    const int height = number("height"), width = number("width");
    const auto scale = numbers_of(json, "scale"), strides = numbers_of(json, "strides"), fill = numbers_of(json, "fill");
    const float iou_threshold = number("iou_threshold"), max_boxes = number("max_detections");
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
                input.channel(c).row(y)[x] = y < h && x < w ? small[(size_t(y) * w + x) * 3 + 2 - c] : fill[c];

    ncnn::Net net;
    if (net.load_param((model + ".param").c_str()) || net.load_model((model + ".bin").c_str())) fail(model + ": cannot be read");
    auto extractor = net.create_extractor();
    extractor.input("image", input);
    std::vector<Box> boxes;
    auto higher = [](const Box &a, const Box &b) { return a.score > b.score; };
    const float right = whole ? width : w, bottom = whole ? height : h;
    for (const float stride : strides) {
        const std::string level = std::to_string(int(stride));
        ncnn::Mat scores, sides;
        if (extractor.extract(("scores_" + level).c_str(), scores) || extractor.extract(("boxes_" + level).c_str(), sides))
            fail(model + ": has no maps of stride " + level);
        const int classes = scores.c / (sides.c / 4);
        std::vector<Box> found;
        for (int y = 0; y < scores.h; y++)
            for (int x = 0; x < scores.w; x++)
                for (int channel = 0; channel < scores.c; channel++) {
                    const float score = scores.channel(channel).row(y)[x];
                    if (score <= least) continue;
                    auto side = [&](int i, int cell, float end) {
                        const float place = sides.channel(channel / classes * 4 + i).row(y)[x];
                        return std::clamp((cell + place) * stride, 0.f, end);
                    };
                    found.push_back({side(0, x, right), side(1, y, bottom), side(2, x, right), side(3, y, bottom), score, channel % classes});
                }
        std::stable_sort(found.begin(), found.end(), higher);
        if (candidates > 0 && found.size() > candidates) found.resize(size_t(candidates));
        boxes.insert(boxes.end(), found.begin(), found.end());
    }

    std::stable_sort(boxes.begin(), boxes.end(), higher);
    std::vector<Box> kept;
    for (const Box &box : boxes) {
        auto same = [&](const Box &other) { return other.label == box.label && overlap(other, box) > iou_threshold; };
        if (box.x2 <= box.x1 || box.y2 <= box.y1 || std::any_of(kept.begin(), kept.end(), same)) continue;
        if (kept.size() < max_boxes) kept.push_back(box);
    }
    for (const Box &box : kept)
        std::printf("%d %.4f %.2f %.2f %.2f %.2f\n", box.label, box.score, box.x1 * across / w, box.y1 * down / h,
                    box.x2 * across / w, box.y2 * down / h);
}
