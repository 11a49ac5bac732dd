{
  # For prebuildify, which drives node-gyp. The build is CMakeLists.txt, through scripts/build.mjs; this only calls it.
  "targets": [
    {
      "target_name": "ebpf_ckpt",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["<(PRODUCT_DIR)/ebpf_ckpt.node"],
          "action": ["node", "scripts/build.mjs", "addon"]
        }
      ]
    }
  ]
}
