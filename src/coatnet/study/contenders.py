"""Other families that the paper compares with (Table 4), as guests near the size of CoAtNet-0."""

CONTENDERS = (
    "timm/resnet50",  # 26 M; the plain form of Table 4's ResNet-RS
    "timm/tf_efficientnetv2_s",  # 21 M; EfficientNetV2-S
    "timm/vit_small_patch16_224",  # 22 M; the network of DeiT-S
    "timm/cait_s24_224",  # 47 M; CaiT-S-24, the smallest of Table 4
    "vit_pytorch/deepvit",  # 26 M; DeepViT-S
)
"""One of each family; any other guest can stand beside them."""
